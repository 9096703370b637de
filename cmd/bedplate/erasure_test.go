package main

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/erasure"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

// erasedDocument is a signed record of a machine with two disks.
func erasedDocument(t *testing.T, s *trust.Signer) []byte {
	t.Helper()
	disk := func(name, serial string) erasure.Device {
		return erasure.Device{
			Path: "/dev/" + name, Name: name, Model: "Disk \x1b[31m1", Serial: serial, Bus: "virtio", SizeBytes: 4 << 30, Method: "discard", Level: "clear", Tried: []erasure.Tried{}, Start: noon(),
			Verification: erasure.Verification{Kind: "full", BytesRead: 4 << 30, Result: "zeros"}, OK: true,
		}
	}
	r := &erasure.Record{
		Schema: erasure.Schema, ID: "web-1-20260102-150405", Time: noon(), Machine: erasure.Machine{Name: "web-1", Serial: "SN1"}, Operator: "alice", OK: true, Level: "clear",
		Devices: []erasure.Device{disk("vda", "A"), disk("vdb", "B")}, Firmware: erasure.Firmware{Removed: []string{}}, Problems: []string{},
	}
	doc, err := erasure.Sign(r, s)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// failedDocument is a signed record of a machine of whose disks one is dead.
func failedDocument(t *testing.T, s *trust.Signer) []byte {
	t.Helper()
	r, err := erasure.Verify(erasedDocument(t, s), erasure.Trust{KeyDigest: s.KeyDigest()})
	if err != nil {
		t.Fatal(err)
	}
	d := &r.Devices[1]
	d.OK, d.Error, d.Method, d.Level, d.Verification = false, "input/output error", "", "", erasure.Verification{}
	r.OK, r.Level, r.Problems = false, "", []string{"workflow w failed: step erase", "vdb (B): not erased: input/output error"}
	doc, err := erasure.Sign(r, s)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestErasure(t *testing.T) {
	dir := t.TempDir()
	ca, err := trust.OpenCA(dir, rand.Reader, noon)
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.OpenSigner(dir, ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	doc := erasedDocument(t, s)
	for name, content := range map[string]string{
		"web-1.json": string(doc), "forged.json": strings.Replace(string(doc), `"serial":"B"`, `"serial":"C"`, 1), "odd.json": "{}",
		"failed.json": string(failedDocument(t, s)),
		"config.yaml": "server: nowhere.example\nca_digest: " + ca.Digest() + "\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	good := `web-1.json: machine web-1 (serial number SN1) is erased and verified: 2 disks, level clear, 2026-01-02T15:04:05Z, asked for by alice
  DISK  MODEL        SERIAL  SIZE   METHOD   LEVEL  VERIFIED
  vda   Disk  [31m1  A       4 GiB  discard  clear  full: zeros
  vdb   Disk  [31m1  B       4 GiB  discard  clear  full: zeros
`
	failed := `failed.json: authentic, but not an erasure: machine web-1 (serial number SN1): 1 of 2 disks on record are erased, 2026-01-02T15:04:05Z, asked for by alice
  DISK  MODEL        SERIAL  SIZE   METHOD   LEVEL  VERIFIED
  vda   Disk  [31m1  A       4 GiB  discard  clear  full: zeros
  vdb   Disk  [31m1  B       4 GiB  -        -      not erased
`
	why := `[stderr]
error: failed.json: the machine is not erased: workflow w failed: step erase
error: failed.json: the machine is not erased: vdb (B): not erased: input/output error
`
	zeros := "sha256:" + strings.Repeat("0", 64)
	for _, c := range []struct{ name, line, want string }{
		{"by the CA's digest", "machine erasure verify web-1.json --ca " + ca.Digest(), good},
		{"by the CA's certificate", "machine erasure verify web-1.json --ca ca.crt", good},
		{"by the client's configuration, whose server isn't asked", "machine erasure verify web-1.json --config config.yaml", good},
		{"by the key", "machine erasure verify web-1.json --key " + s.KeyDigest(), good},
		{"from the standard input", "machine erasure verify - --ca " + ca.Digest() + " < web-1.json", strings.Replace(good, "web-1.json", "-", 1)},
		{"a forged one beside a good one", "machine erasure verify forged.json web-1.json --ca " + ca.Digest() + " --machine SN1",
			good + "[stderr]\nerror: forged.json: it was changed after it was signed: /devices/1/serial\n[exit code 1]\n"},
		{"a genuine one of a release that failed", "machine erasure verify web-1.json failed.json --ca ca.crt", good + failed + why + "[exit code 3]\n"},
		{"a genuine one of a release that failed, of another machine", "machine erasure verify failed.json --machine web-2 --ca ca.crt",
			"error: failed.json: it is of another machine: web-1 (UUID , serial number SN1), not web-2\n" + strings.TrimPrefix(why, "[stderr]\n") + "[exit code 1]\n"},
		{"another machine", "machine erasure verify web-1.json --machine web-2 --ca ca.crt", "error: web-1.json: it is of another machine: web-1 (UUID , serial number SN1), not web-2\n[exit code 1]\n"},
		{"another CA", "machine erasure verify web-1.json --ca " + zeros, "error: web-1.json: it is not signed by a key that is trusted: none of its certificates has the CA's digest " + zeros + "\n[exit code 1]\n"},
		{"no record", "machine erasure verify odd.json --ca ca.crt", "error: odd.json: not an erasure record: record and signature are expected, and nothing else\n[exit code 1]\n"},
		{"nobody to trust", "machine erasure verify web-1.json", "error: whom to trust? no CA is configured: give one with --ca (a digest or ca.crt), or a key with --key\nhint: `bedplate machine erasure verify --help` says how it is used\n[exit code 2]\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, command(t.Context(), newTestApp(nil, nil, nil), c.line)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	t.Run("list and get", func(t *testing.T) {
		f := newFakeServer(t)
		e := &pb.Erasure{
			Metadata: &pb.Metadata{Name: "web-1-20260102-150405", Labels: map[string]string{"bedplate/machine": "web-1"}, CreateTime: at(-60)},
			Status:   &pb.ErasureStatus{Machine: "web-1", Ok: true, Level: "clear", Disks: 2, Operator: "alice", Document: string(doc)},
		}
		f.objects["erasure/"+e.Metadata.Name] = e
		f.objects["machine/web-1"] = &pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Status: &pb.MachineStatus{Erasure: e.Metadata.Name}}
		f.objects["machine/web-2"] = &pb.Machine{Metadata: &pb.Metadata{Name: "web-2"}}
		for line, want := range map[string]string{
			"machine erasure list":                      "NAME                   MACHINE  RESULT  LEVEL  DISKS  OPERATOR  AGE\nweb-1-20260102-150405  web-1    erased  clear  2      alice     60s\n",
			"machine erasure get web-1-20260102-150405": string(doc),
			"machine erasure get --machine web-1":       string(doc),
			"machine erasure get --machine web-2":       "error: machine/web-2 has no record of an erasure\nhint: one is made when it is released\n[exit code 1]\n",
			"machine erasure get":                       "error: which record? give its name, or the machine's with --machine\nhint: `bedplate machine erasure get --help` says how it is used\n[exit code 2]\n",
			"get erasures -o name":                      "erasure/web-1-20260102-150405\n",
			"delete erasure web-1-20260102-150405":      "error: erasures can't do that: it has no DeleteErasure\nhint: `bedplate delete --help` says how it is used\n[exit code 2]\n",
		} {
			if diff := cmp.Diff(want, command(t.Context(), newTestApp(f, nil, nil), line)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", line, diff)
			}
		}
	})
}
