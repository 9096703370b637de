package erasure

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/trust"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// result is what disk.erase reports of one disk.
func result(change map[string]any) map[string]any {
	r := map[string]any{
		"path": "/dev/nvme0n1", "name": "nvme0n1", "model": "Disk 1", "serial": "S1", "wwn": "eui.1", "firmware": "1.0", "bus": "nvme", "size_bytes": 1 << 30,
		"method": "nvme-sanitize-block", "level": "purge", "then": "", "resumed": false,
		"tried":       []any{map[string]any{"method": "nvme-sanitize-crypto", "error": "the disk says that sanitizing failed"}},
		"not_offered": "nvme-sanitize-overwrite", "hidden": "", "start_time": "2026-11-21T11:00:00Z", "duration_seconds": 61.25, "log_page": "ffff01000a000000",
		"verification": map[string]any{"kind": "sample", "samples": 1536, "seed": "00000000000000ff", "bytes_read": 6291456, "result": "zeros"}, "ok": true, "error": "",
	}
	for k, v := range change {
		r[k] = v
	}
	return r
}

func outputs(t testing.TB, m map[string]any) map[string]*structpb.Value {
	t.Helper()
	s, err := structpb.NewStruct(m)
	if err != nil {
		t.Fatal(err)
	}
	return s.GetFields()
}

// released is a machine with one disk and a TPM, and the workflow that released it.
func released(t testing.TB, results ...any) (*pb.Machine, *pb.Workflow) {
	t.Helper()
	m := &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1", Uid: "u-1"},
		Status: &pb.MachineStatus{
			Agent: &pb.AgentStatus{Version: "v1"},
			Inventory: &pb.Inventory{
				System: &pb.System{Manufacturer: "Maker", Product: "Box", Serial: "SN1", Uuid: "4c4c4544-0000-0000-0000-000000000001"},
				Disks:  []*pb.Disk{{Name: "nvme0n1", Serial: "S1", Wwn: "eui.1", SizeBytes: 1 << 30}, {Name: "sda", Removable: true, SizeBytes: 1 << 20}},
				Tpm:    &pb.TPM{Present: true, Version: 2},
			},
		},
	}
	if results == nil {
		results = []any{result(nil)}
	}
	step := func(id, uses string, out map[string]any) *pb.StepStatus {
		return &pb.StepStatus{Id: id, Uses: uses, State: pb.StepState_STEP_SUCCEEDED, Outputs: outputs(t, out)}
	}
	w := &pb.Workflow{
		Metadata: &pb.Metadata{Name: "release-web", Uid: "u-2"},
		Spec:     &pb.WorkflowSpec{Template: "release", Machine: "web-1", Instance: "web"},
		Status: &pb.WorkflowStatus{
			State: pb.WorkflowState_SUCCEEDED, Run: 1, StartTime: timestamppb.New(now.Add(-time.Hour)), EndTime: timestamppb.New(now.Add(-time.Minute)),
			Steps: []*pb.StepStatus{
				step("erase", "disk.erase", map[string]any{"results": results}),
				step("tpm", "tpm.clear", map[string]any{"present": true, "version": 2, "method": "lockout", "cleared": true, "pending": false}),
				step("firmware", "firmware.reset", map[string]any{"firmware": "uefi", "removed": []any{"BootNext", "Boot0003"}, "order": []any{"Boot0001 PXE"}, "mok_keys": 0}),
			},
		},
	}
	return m, w
}

func TestFromWorkflow(t *testing.T) {
	m, w := released(t)
	r, err := FromWorkflow(m, w, "alice", now)
	if err != nil {
		t.Fatal(err)
	}
	want := &Record{
		Schema: Schema, ID: "web-1-20261121-115900", Time: now, Operator: "alice", Agent: "v1", OK: true, Level: Purge, Problems: []string{},
		Machine:  Machine{Name: "web-1", UID: "u-1", UUID: "4c4c4544-0000-0000-0000-000000000001", Serial: "SN1", Manufacturer: "Maker", Product: "Box"},
		Workflow: Workflow{Name: "release-web", UID: "u-2", Template: "release", Instance: "web", Run: 1, State: "succeeded", Start: now.Add(-time.Hour), End: now.Add(-time.Minute)},
		Devices: []Device{{
			Path: "/dev/nvme0n1", Name: "nvme0n1", Model: "Disk 1", Serial: "S1", WWN: "eui.1", Firmware: "1.0", Bus: "nvme", SizeBytes: 1 << 30,
			Method: "nvme-sanitize-block", Level: Purge, Tried: []Tried{{"nvme-sanitize-crypto", "the disk says that sanitizing failed"}}, NotOffered: "nvme-sanitize-overwrite",
			Start: now.Add(-time.Hour), DurationMS: 61250, LogPage: "ffff01000a000000",
			Verification: Verification{Kind: "sample", Samples: 1536, Seed: "00000000000000ff", BytesRead: 6291456, Result: "zeros"}, OK: true,
		}},
		TPM:      TPM{Asked: true, Present: true, Version: 2, Method: "lockout", Cleared: true},
		Firmware: Firmware{Asked: true, Kind: "uefi", Removed: []string{"BootNext", "Boot0003"}},
	}
	if diff := cmp.Diff(want, r); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	e := Resource(r, []byte("document"))
	if e.Metadata.Name != r.ID || e.Metadata.Labels[LabelMachine] != "web-1" || !e.Status.Ok || e.Status.Level != Purge || e.Status.Disks != 1 || e.Status.Document != "document" {
		t.Errorf("resource = %v", e)
	}
}

func TestFromWorkflow_NotErased(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*pb.Machine, *pb.Workflow)
		result map[string]any
		want   string
	}{
		{"a disk that isn't erased", nil, map[string]any{"ok": false, "error": "no method worked", "method": "", "level": ""}, "nvme0n1 (S1): not erased: no method worked"},
		{"a disk that wasn't verified", nil, map[string]any{"verification": map[string]any{"kind": "none"}}, "nvme0n1 (S1): not verified"},
		{"a verification of every byte that wasn't", nil, map[string]any{"verification": map[string]any{"kind": "full", "bytes_read": 5, "result": "zeros"}}, "not every byte was verified"},
		{"a disk of the inventory that the agent says nothing of", func(m *pb.Machine, _ *pb.Workflow) {
			m.Status.Inventory.Disks = append(m.Status.Inventory.Disks, &pb.Disk{Name: "sdb", Serial: "S2", SizeBytes: 1})
		}, nil, "disk sdb (S2) of the inventory is not among the erased"},
		{"one disk reported in place of two alike", func(m *pb.Machine, _ *pb.Workflow) {
			m.Status.Inventory.Disks = append(m.Status.Inventory.Disks, proto.Clone(m.Status.Inventory.Disks[0]).(*pb.Disk))
		}, nil, "disk nvme0n1 (S1) of the inventory is not among the erased"},
		{"another disk in its place", nil, map[string]any{"wwn": "eui.9"}, "disk nvme0n1 (S1) of the inventory is not among the erased"},
		{"another serial number, on disks without a world wide name", func(m *pb.Machine, _ *pb.Workflow) { m.Status.Inventory.Disks[0].Wwn = "" },
			map[string]any{"wwn": "", "serial": "S9"}, "disk nvme0n1 (S1) of the inventory is not among the erased"},
		{"a smaller disk than there was", nil, map[string]any{"size_bytes": 1 << 29}, "disk nvme0n1 has 1073741824 bytes in the inventory, and 536870912 were erased"},
		{"no inventory", func(m *pb.Machine, _ *pb.Workflow) { m.Status.Inventory = nil }, nil, "the machine has no inventory"},
		{"a failed workflow", func(_ *pb.Machine, w *pb.Workflow) {
			w.Status.State, w.Status.Cause = pb.WorkflowState_WORKFLOW_FAILED, "step firmware failed"
		}, nil, "workflow release-web failed: step firmware failed"},
		{"a workflow that erases nothing", func(_ *pb.Machine, w *pb.Workflow) { w.Status.Steps = nil }, nil, "no step of workflow release-web has erased disks"},
		{"an erase step that was skipped", func(_ *pb.Machine, w *pb.Workflow) { w.Status.Steps[0].State = pb.StepState_STEP_SKIPPED }, nil, "no step of workflow release-web has erased disks"},
		{"a TPM that waits for its firmware", func(_ *pb.Machine, w *pb.Workflow) {
			w.Status.Steps[1].Outputs = map[string]*structpb.Value{"present": structpb.NewBoolValue(true), "pending": structpb.NewBoolValue(true)}
		}, nil, "the TPM is not cleared"},
		{"a TPM that the agent says isn't there", func(_ *pb.Machine, w *pb.Workflow) {
			w.Status.Steps[1].Outputs = map[string]*structpb.Value{"present": structpb.NewBoolValue(false)}
		}, nil, "the TPM is not cleared"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, w := released(t, result(c.result))
			if c.change != nil {
				c.change(m, w)
			}
			r, err := FromWorkflow(m, w, "alice", now)
			var not *NotErased
			if !errors.As(err, &not) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error = %v, want %q", err, c.want)
			}
			if r == nil || r.OK || r.Level != "" || !slices.Equal(r.Problems, not.Problems) {
				t.Errorf("record = %+v", r)
			}
		})
	}
}

func TestFromWorkflow_Hostile(t *testing.T) {
	many := make([]any, maxDevices+1)
	for i := range many {
		many[i] = result(map[string]any{"path": fmt.Sprint(i)})
	}
	for name, results := range map[string][]any{
		"a number in place of a name":          {result(map[string]any{"serial": 5})},
		"text in place of a size":              {result(map[string]any{"size_bytes": "1"})},
		"a negative size":                      {result(map[string]any{"size_bytes": -1})},
		"half a byte":                          {result(map[string]any{"size_bytes": 1.5})},
		"a size that no number holds":          {result(map[string]any{"size_bytes": 1e300})},
		"a method that there isn't":            {result(map[string]any{"method": "prayer"})},
		"a level that the method doesn't give": {result(map[string]any{"method": "overwrite"})},
		"a method of another kind of disk":     {result(map[string]any{"bus": "sata"})},
		"a level that there isn't":             {result(map[string]any{"level": "destroy"})},
		"terminal escapes":                     {result(map[string]any{"model": "\x1b[2J"})},
		"an endless text":                      {result(map[string]any{"error": strings.Repeat("x", maxText+1)})},
		"no name":                              {result(map[string]any{"name": ""})},
		"a duration of a century":              {result(map[string]any{"duration_seconds": 1e10})},
		"a time that isn't one":                {result(map[string]any{"start_time": "yesterday"})},
		"a log page that isn't hexadecimal":    {result(map[string]any{"log_page": "xyz"})},
		"a list in place of a verification":    {result(map[string]any{"verification": []any{}})},
		"tries that are no maps":               {result(map[string]any{"tried": []any{"x"}})},
		"a thousand tries":                     {result(map[string]any{"tried": make([]any, 1000)})},
		"one disk twice":                       {result(nil), result(nil)},
		"too many disks":                       many,
		"a disk that is a string":              {"nvme0n1"},
	} {
		t.Run(name, func(t *testing.T) {
			m, w := released(t, results...)
			r, err := FromWorkflow(m, w, "alice", now)
			if !errors.Is(err, ErrOutputs) {
				t.Errorf("%v, %v", r, err)
			}
			if r == nil || r.OK || len(r.Devices) > 0 || !strings.Contains(r.Problems[0], ErrOutputs.Error()) {
				t.Errorf("the record says %+v", r)
			}
		})
	}
	t.Run("results that aren't a list", func(t *testing.T) {
		m, w := released(t)
		w.Status.Steps[0].Outputs = outputs(t, map[string]any{"results": "fine"})
		if _, err := FromWorkflow(m, w, "alice", now); !errors.Is(err, ErrOutputs) {
			t.Error(err)
		}
	})
	t.Run("a workflow of another machine", func(t *testing.T) {
		m, w := released(t)
		w.Spec.Machine = "web-2"
		if _, err := FromWorkflow(m, w, "alice", now); err == nil {
			t.Error("no error")
		}
	})
}

// keys are a CA and a signer, made once.
type keys struct {
	ca     *trust.CA
	signer *trust.Signer
}

func newKeys(t testing.TB) keys {
	t.Helper()
	dir := t.TempDir()
	ca, err := trust.OpenCA(dir, rand.Reader, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	s, err := trust.OpenSigner(dir, ca)
	if err != nil {
		t.Fatal(err)
	}
	return keys{ca, s}
}

// signed is a document of a machine that is erased.
func (k keys) signed(t testing.TB) []byte {
	t.Helper()
	m, w := released(t)
	r, err := FromWorkflow(m, w, "alice", now)
	if err != nil {
		t.Fatal(err)
	}
	r.Server = Server{Version: "v1", CADigest: k.ca.Digest()}
	doc, err := Sign(r, k.signer)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestVerify(t *testing.T) {
	k, other := newKeys(t), newKeys(t)
	doc := k.signed(t)
	if again := k.signed(t); !bytes.Equal(doc, again) {
		t.Error("the same record isn't the same document")
	}
	byCA := Trust{CADigest: k.ca.Digest()}
	var indented bytes.Buffer
	if err := json.Indent(&indented, doc, "", "    "); err != nil {
		t.Fatal(err)
	}
	replaced := func(old, with string) []byte {
		t.Helper()
		if !bytes.Contains(doc, []byte(old)) {
			t.Fatalf("the document has no %s:\n%s", old, doc)
		}
		return bytes.Replace(doc, []byte(old), []byte(with), 1)
	}
	for _, c := range []struct {
		name  string
		doc   []byte
		trust Trust
		want  error
		text  string
	}{
		{"by the CA", doc, byCA, nil, ""},
		{"by the key", doc, Trust{KeyDigest: k.signer.KeyDigest()}, nil, ""},
		{"indented", indented.Bytes(), byCA, nil, ""},
		{"of the expected machine, by its name", doc, Trust{CADigest: k.ca.Digest(), Machine: "web-1"}, nil, ""},
		{"by its serial number", doc, Trust{CADigest: k.ca.Digest(), Machine: "SN1"}, nil, ""},
		{"by its UUID", doc, Trust{CADigest: k.ca.Digest(), Machine: "4C4C4544-0000-0000-0000-000000000001"}, nil, ""},
		{"of another machine", doc, Trust{CADigest: k.ca.Digest(), Machine: "web-2"}, ErrMachine, "web-1 (UUID 4c4c4544-0000-0000-0000-000000000001, serial number SN1), not web-2"},
		{"another CA", doc, Trust{CADigest: other.ca.Digest()}, ErrUnknownKey, "none of its certificates has the CA's digest"},
		{"another key", doc, Trust{KeyDigest: other.signer.KeyDigest()}, ErrUnknownKey, "its key has the digest sha256:"},
		{"nobody to trust", doc, Trust{}, ErrUnknownKey, "say which"},
		{"a changed serial number", replaced(`"serial":"S1"`, `"serial":"S2"`), byCA, ErrTampered, "it was changed after it was signed: /devices/0/serial"},
		{"a changed method of a disk", replaced(`"method":"nvme-sanitize-block"`, `"method":"nvme-sanitize-crypto"`), byCA, ErrTampered, ": /devices/0/method"},
		{"a changed machine", replaced(`"name":"web-1"`, `"name":"web-2"`), byCA, ErrTampered, ": /machine/name"},
		{"a changed operator and TPM", bytes.Replace(replaced(`"operator":"alice"`, `"operator":"mallory"`), []byte(`"version":2`), []byte(`"version":1`), 1), byCA, ErrTampered, ": /operator, /tpm/version"},
		{"a member that was added", replaced(`"operator":`, `"note":"x","operator":`), byCA, ErrTampered, "/ (members were added or removed)"},
		{"a disk that was taken out", replaced(string(doc[bytes.Index(doc, []byte(`"devices":[`)):bytes.Index(doc, []byte(`,"firmware":{`))]), `"devices":[]`), byCA, ErrTampered, "/devices (members were added or removed)"},
		{"a changed time", replaced(`"time":"2026-11-21T12:00:00Z"`, `"time":"2026-11-22T12:00:00Z"`), byCA, ErrTampered, ": /time"},
		{"a time before the certificate", replaced(`"time":"2026-11-21T12:00:00Z"`, `"time":"2016-11-21T12:00:00Z"`), byCA, ErrExpired, "the record is of 2016-11-21 12:00:00"},
		{"a changed signature", replaced(`"value":"`, `"value":"AAAA`), byCA, ErrTampered, "not one of Ed25519"},
		{"another schema", replaced(Schema, "bedplate.erasure/v2"), byCA, ErrFormat, "this program knows bedplate.erasure/v1"},
		{"a member twice", replaced(`"operator":"alice"`, `"operator":"alice","operator":"bob"`), byCA, ErrFormat, `member "operator" is there twice`},
		{"something after the end", append(bytes.Clone(doc), "{}"...), byCA, ErrFormat, "something follows the end"},
		{"something beside the record", replaced(`{"record":`, `{"comment":"x","record":`), byCA, ErrFormat, "record and signature are expected"},
		{"something in the signature", replaced(`{"algorithm":`, `{"also":"x","algorithm":`), byCA, ErrFormat, "unknown field"},
		{"a fraction", replaced(`"version":2`, `"version":2.0`), byCA, ErrFormat, "2.0 is not a whole number"},
		{"cut off", doc[:len(doc)/2], byCA, ErrFormat, ""},
		{"not UTF-8", replaced("alice", "al\xffice"), byCA, ErrFormat, "not UTF-8"},
		{"nothing", nil, byCA, ErrFormat, ""},
		{"too long", bytes.Repeat([]byte(" "), MaxDocument+1), byCA, ErrFormat, "at most"},
		{"nested without end", bytes.Repeat([]byte("["), 1000), byCA, ErrFormat, "nested too deep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Verify(c.doc, c.trust)
			if c.want == nil && err == nil {
				if !r.OK || r.Machine.Name != "web-1" || r.Server.CADigest != k.ca.Digest() {
					t.Errorf("record = %+v", r)
				}
				return
			}
			if !errors.Is(err, c.want) || c.want == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error = %v\nwant %v with %q", err, c.want, c.text)
			}
		})
	}
	t.Run("a sound record of a machine that isn't erased", func(t *testing.T) {
		m, w := released(t, result(map[string]any{"ok": false, "error": "dead", "method": "", "level": ""}))
		r, err := FromWorkflow(m, w, "alice", now)
		if r == nil || err == nil {
			t.Fatal(r, err)
		}
		doc, err := Sign(r, k.signer)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(doc, byCA)
		if !Authentic(err) || err.Error() != "the machine is not erased: nvme0n1 (S1): not erased: dead" {
			t.Errorf("error = %v", err)
		}
		another := byCA
		another.Machine = "web-2"
		for name, try := range map[string]func() (*Record, error){
			"a changed one": func() (*Record, error) {
				return Verify(bytes.Replace(doc, []byte(`"dead"`), []byte(`"fine"`), 1), byCA)
			},
			"one of another machine":             func() (*Record, error) { return Verify(doc, another) },
			"one that nobody trusted has signed": func() (*Record, error) { return Verify(doc, Trust{KeyDigest: "sha256:" + strings.Repeat("0", 64)}) },
			"no record":                          func() (*Record, error) { return Verify([]byte("{}"), byCA) },
		} {
			if _, err := try(); err == nil || Authentic(err) {
				t.Errorf("%s passes for authentic: %v", name, err)
			}
		}
	})
	t.Run("a verdict that the devices don't bear out", func(t *testing.T) {
		m, w := released(t)
		r, err := FromWorkflow(m, w, "alice", now)
		if err != nil {
			t.Fatal(err)
		}
		r.Devices[0].OK, r.Devices[0].Error = false, "dead"
		doc, err := Sign(r, k.signer)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Verify(doc, byCA); !errors.Is(err, ErrNotErased) {
			t.Errorf("error = %v", err)
		}
	})
}

// TestCanonical has the examples of RFC 8785 §3.2.2.2 and §3.2.3.
func TestCanonical(t *testing.T) {
	for in, want := range map[string]string{
		`{"string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/", "literals": [null, true, false]}`: `{"literals":[null,true,false],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		`{"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7}`:     "{\"\\r\":2,\"1\":4,\"\u0080\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\ufb33\":3}",
		`[ -5 , 0, 9007199254740991, "<&>\u2028" ]`:                                                    "[-5,0,9007199254740991,\"<&>\u2028\"]",
		`{}`: `{}`, ` [] `: `[]`,
	} {
		v, err := parse([]byte(in))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendCanonical(nil, v)); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", in, got, want)
		}
	}
	for _, bad := range []string{"", "-0", "1e3", "01", "9007199254740992", `{"a":1,"a":1}`, `{"a"}`, "[1,]", "1 2", `"` + "\n" + `"`} {
		if v, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q is %v", bad, v)
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := newKeys(f)
	f.Add(k.signed(f))
	f.Add([]byte(`{"record":{"schema":"bedplate.erasure/v1"},"signature":{}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		v, err := parse(doc)
		if err == nil {
			// The canonical form is one.
			again, err := parse(appendCanonical(nil, v))
			if err != nil || !bytes.Equal(appendCanonical(nil, again), appendCanonical(nil, v)) {
				t.Fatalf("%v: %s", err, appendCanonical(nil, v))
			}
			if where := changed(sums(v), "", v); len(where) != 0 {
				t.Fatalf("%v changed", where)
			}
		}
		if r, err := Verify(doc, Trust{CADigest: k.ca.Digest()}); err == nil && (r == nil || !r.OK) {
			t.Fatalf("%+v", r)
		}
	})
}

func FuzzFromWorkflow(f *testing.F) {
	f.Add("S1", 1073741824.0, "nvme-sanitize-block", "2026-11-21T11:00:00Z")
	f.Fuzz(func(t *testing.T, serial string, size float64, method, start string) {
		v := func(s string) *structpb.Value { return structpb.NewStringValue(s) }
		m, w := released(t)
		fields := w.Status.Steps[0].Outputs["results"].GetListValue().Values[0].GetStructValue().Fields
		fields["serial"], fields["size_bytes"], fields["method"], fields["start_time"] = v(serial), structpb.NewNumberValue(size), v(method), v(start)
		r, err := FromWorkflow(m, w, "alice", now)
		if err == nil && (serial != "S1" || size != 1<<30 || levels[method] == nil) {
			t.Errorf("%+v", r)
		}
	})
}
