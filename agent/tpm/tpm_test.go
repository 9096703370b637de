package tpm

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// emulator starts a TPM of its own for the test.
func emulator(t *testing.T) transport.TPM {
	t.Helper()
	program, err := exec.LookPath("swtpm")
	if err != nil {
		t.Skip("SKIPPED: no swtpm (package swtpm): nothing plays the TPM")
	}
	dir := t.TempDir()
	socket := filepath.Join(dir, "tpm")
	cmd := exec.Command(program, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--flags", "not-need-init,startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err := filepath.Glob(socket); err == nil {
			if tp, err := linuxudstpm.Open(socket); err == nil && answers(socket) {
				return tp
			}
		}
		if time.Now().After(end) {
			t.Fatal("swtpm doesn't answer")
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func answers(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	return c.Close() == nil
}

func TestSeal(t *testing.T) {
	tp := emulator(t)
	values, err := ReadPCRs(tp, []uint{7, 16})
	if err != nil {
		t.Fatal(err)
	}
	secret, sealed, err := Seal(tp, rand.Reader, values)
	if err != nil {
		t.Fatal(err)
	}
	free, freed, err := Seal(tp, rand.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	later := Values{16: sha256.Sum256(append(make([]byte, 32), bytes.Repeat([]byte{1}, 32)...))}
	future, futured, err := Seal(tp, rand.Reader, later)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("a key comes back while the registers are the same, by way of its LUKS2 token", func(t *testing.T) {
		b, err := sealed.Token(3)
		if err != nil {
			t.Fatal(err)
		}
		back, ok, err := ParseToken(b)
		if err != nil || !ok {
			t.Fatalf("ParseToken(%s): %v, %v", b, ok, err)
		}
		got, err := Unseal(tp, back)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, secret) {
			t.Error("another key came back")
		}
	})
	t.Run("a key for values to come is refused until then", func(t *testing.T) {
		if _, err := Unseal(tp, futured); !errors.Is(err, ErrPolicy) {
			t.Errorf("unsealing: %v, want ErrPolicy", err)
		}
	})
	extendPCR(t, tp, 16, bytes.Repeat([]byte{1}, 32))
	t.Run("once a register has changed the TPM itself keeps the key", func(t *testing.T) {
		if _, err := Unseal(tp, sealed); !errors.Is(err, ErrPolicy) {
			t.Errorf("unsealing: %v, want ErrPolicy", err)
		}
		// Without the digest in the token it is the TPM that has to refuse.
		sealed.Policy = nil
		if _, err := Unseal(tp, sealed); !errors.Is(err, ErrPolicy) {
			t.Errorf("unsealing without a known policy: %v, want ErrPolicy", err)
		}
	})
	t.Run("a key for those values comes now, and one without registers always", func(t *testing.T) {
		for _, c := range []struct {
			want []byte
			s    Sealed
		}{{future, futured}, {free, freed}} {
			got, err := Unseal(tp, c.s)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, c.want) {
				t.Error("another key came back")
			}
		}
	})
	t.Run("no handle is left in the TPM", func(t *testing.T) {
		got, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(tpm2.TPMHTTransient) << 24, PropertyCount: 8}.Execute(tp)
		if err != nil {
			t.Fatal(err)
		}
		handles, err := got.CapabilityData.Data.Handles()
		if err != nil {
			t.Fatal(err)
		}
		if len(handles.Handle) > 0 {
			t.Errorf("there are still %v", handles.Handle)
		}
	})
	t.Run("another TPM can't open it", func(t *testing.T) {
		if _, err := Unseal(emulator(t), freed); err == nil || errors.Is(err, ErrPolicy) {
			t.Errorf("unsealing: %v", err)
		}
	})
}

func extendPCR(t *testing.T, tp transport.TPM, n uint, digest []byte) {
	t.Helper()
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(n), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest}}},
	}.Execute(tp)
	if err != nil {
		t.Fatal(err)
	}
}

func TestToken(t *testing.T) {
	s := Sealed{Blob: []byte{0, 1, 2, 0, 1, 3}, PCRs: nil, Policy: make([]byte, 32), Algorithm: "ecc"}
	b, err := s.Token(2)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	// The fields that systemd 252 reads (src/cryptsetup/cryptsetup-tokens/luks2-tpm2.c).
	want := map[string]any{
		"type": "systemd-tpm2", "keyslots": []any{"2"}, "tpm2-blob": "AAECAAED", "tpm2-pcrs": []any{}, "tpm2-pcr-bank": "sha256",
		"tpm2-primary-alg": "ecc", "tpm2-policy-hash": "0000000000000000000000000000000000000000000000000000000000000000", "tpm2-pin": false,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, text := range map[string]string{
		"with a PIN": `{"type":"systemd-tpm2","tpm2-blob":"","tpm2-pcrs":[7],"tpm2-pcr-bank":"sha256","tpm2-policy-hash":"","tpm2-pin":true}`,
		"of another": `{"type":"clevis","keyslots":["1"]}`,
	} {
		if _, ok, err := ParseToken([]byte(text)); ok || err != nil {
			t.Errorf("a token %s: %v, %v; want it passed over", name, ok, err)
		}
	}
	if _, _, err := ParseToken([]byte(`{"type":"systemd-tpm2","tpm2-pcrs":[24],"tpm2-pcr-bank":"sha256"}`)); err == nil {
		t.Error("register 24 is taken")
	}
}

// variable is UEFI_VARIABLE_DATA.
func variable(name string) []byte {
	b := make([]byte, 16)
	u := utf16.Encode([]rune(name))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(u)))
	b = binary.LittleEndian.AppendUint64(b, 1)
	for _, c := range u {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	return append(b, 1)
}

// record appends an entry with digests of SHA-1 and SHA-256.
func record(b []byte, pcr, kind uint32, data []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, pcr)
	b = binary.LittleEndian.AppendUint32(b, kind)
	b = binary.LittleEndian.AppendUint32(b, 2)
	b = append(binary.LittleEndian.AppendUint16(b, 0x0004), make([]byte, 20)...)
	d := sha256.Sum256(data)
	b = append(binary.LittleEndian.AppendUint16(b, 0x000b), d[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

// header is the first entry: TPM 1.2's format, two algorithms.
func header() []byte {
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0, 0, 2, 0, 2) // class, version 2.0 errata 0, uintn of 8 bytes
	spec = binary.LittleEndian.AppendUint32(spec, 2)
	for _, a := range [][2]uint16{{4, 20}, {0x0b, 32}} {
		spec = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(spec, a[0]), a[1])
	}
	spec = append(spec, 0)
	b := binary.LittleEndian.AppendUint32(nil, 0)
	b = append(binary.LittleEndian.AppendUint32(b, evNoAction), make([]byte, 20)...)
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(spec))), spec...)
}

// secureBoot is the log of a machine that was started by shim.
func secureBoot() []byte {
	b := record(header(), 7, 0x80000001, variable("SecureBoot"))
	b = record(b, 0, 8, []byte("firmware"))
	b = record(b, 7, evSeparator, []byte{0, 0, 0, 0})
	b = record(b, 7, 0x800000e0, variable("db"))
	b = record(b, 7, 0x800000e0, variable("SbatLevel"))
	return record(b, 7, 0x800000e0, variable("Shim"))
}

func register(data ...[]byte) Digest {
	var d Digest
	for _, e := range data {
		d = extend(d, Event{Digest: sha256.Sum256(e)})
	}
	return d
}

func TestPredict(t *testing.T) {
	events, err := ParseLog(secureBoot())
	if err != nil {
		t.Fatal(err)
	}
	firmware := slices.Clip([][]byte{variable("SecureBoot"), {0, 0, 0, 0}, variable("db")})
	shim := slices.Clip([][]byte{variable("SbatLevel"), variable("Shim")})
	now := register(append(firmware, shim...)...)
	twice := register(append(append(firmware, shim...), shim...)...)
	vouched := register(append(append(append(firmware, shim...), variable("db")), shim...)...)
	if diff := cmp.Diff([]Digest{now, twice, vouched}, Predict(events, now)); diff != "" {
		t.Errorf("with shim's events (-want +got):\n%s", diff)
	}
	if got := Predict(events, Digest{1}); len(got) != 1 || got[0] != (Digest{1}) {
		t.Errorf("with a log that leads elsewhere: %x, want only what the register holds", got)
	}
	plain, err := ParseLog(record(record(header(), 7, 0x80000001, variable("SecureBoot")), 7, evSeparator, []byte{0, 0, 0, 0}))
	if err != nil {
		t.Fatal(err)
	}
	now = register(variable("SecureBoot"), []byte{0, 0, 0, 0})
	if got := Predict(plain, now); len(got) != 1 {
		t.Errorf("without a loader's events: %d values, want 1", len(got))
	}
}

func FuzzParseLog(f *testing.F) {
	f.Add(secureBoot())
	f.Add(header())                        // no event at all
	f.Add(secureBoot()[:len(header())+30]) // cut off within a digest
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := ParseLog(b)
		if err != nil {
			return
		}
		if len(events) > maxEvents {
			t.Fatalf("%d events", len(events))
		}
		Predict(events, Digest{})
	})
}

func FuzzParseToken(f *testing.F) {
	b, err := Sealed{Blob: []byte{0, 0}, PCRs: []uint{7}, Policy: make([]byte, 32), Algorithm: "ecc"}.Token(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"type":"systemd-tpm2","tpm2-pcrs":[0,23],"tpm2-pcr-bank":"sha256","tpm2-blob":"` + base64.StdEncoding.EncodeToString([]byte{0, 9, 1}) + `"}`)) // a length beyond its end
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok, err := ParseToken(b)
		if err != nil || !ok {
			return
		}
		_, _, _ = splitBlob(s.Blob)
		again, err := s.Token(1)
		if err != nil {
			t.Fatal(err)
		}
		if back, ok, err := ParseToken(again); err != nil || !ok || !bytes.Equal(back.Blob, s.Blob) {
			t.Fatalf("%s comes back as %+v, %v, %v", again, back, ok, err)
		}
	})
}
