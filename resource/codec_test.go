package resource

import (
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

func mustGlob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("nothing matches %s: %v", pattern, err)
	}
	return names
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// golden compares with testdata/name, or rewrites it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(string(mustRead(t, name)), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

// Each good file is read, and written again as its .golden says.
func TestDecode_GoodFiles(t *testing.T) {
	for _, name := range append(mustGlob(t, "*.good.yaml"), mustGlob(t, "*.good.json")...) {
		t.Run(filepath.Base(name), func(t *testing.T) {
			items, err := Decode(name, bytes.NewReader(mustRead(t, name)))
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			if err := Encode(&out, YAML, objects(items)...); err != nil {
				t.Fatal(err)
			}
			golden(t, name+".golden", out.String())
		})
	}
}

// Each bad file has the messages of its .golden.
func TestDecode_BadFiles(t *testing.T) {
	for _, name := range mustGlob(t, "*.bad.yaml") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			items, err := Decode(filepath.Base(name), bytes.NewReader(mustRead(t, name)))
			if err == nil || items != nil {
				t.Fatalf("it was read as %v", items)
			}
			golden(t, name+".golden", err.Error()+"\n")
		})
	}
}

func objects(items []Item) []Object {
	var out []Object
	for _, i := range items {
		out = append(out, i.Object)
	}
	return out
}

func TestDecode_TooLong(t *testing.T) {
	_, err := Decode("long.yaml", strings.NewReader(strings.Repeat("#", MaxFileBytes+1)))
	if got, want := fmt.Sprint(err), "long.yaml: longer than 16 MiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestItem_Position(t *testing.T) {
	const file = "apiVersion: bedplate/v1\nkind: Machine\nmetadata: {name: web-1, labels: {a/b: c}}\nspec:\n  interfaces:\n  - mac: 52:54:00:77:00:01\n"
	items, err := Decode("f.yaml", strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"spec.interfaces[0].mac":         "f.yaml:6:10",
		"machine.spec.interfaces[0].mac": "f.yaml:6:10",
		"spec.interfaces[0].address":     "f.yaml:6:5",
		"spec.interfaces[3]":             "f.yaml:5:3",
		"spec.hostname":                  "f.yaml:4:1",
		`metadata.labels["a/b"]`:         "f.yaml:3:39",
		"metadata.name":                  "f.yaml:3:18",
		"nonsense":                       "f.yaml:1:1",
		"":                               "f.yaml:1:1",
	} {
		line, column := items[0].Position(path)
		if got := fmt.Sprintf("f.yaml:%d:%d", line, column); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
}

// What is written is read again the same, for every kind with every field set
// to something.
func TestEncode_RoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, kind := range Kinds() {
		for _, format := range []Format{YAML, JSON} {
			t.Run(kind.Name+" as "+string(format), func(t *testing.T) {
				for range 20 {
					obj := kind.New()
					fill(rnd, obj.ProtoReflect(), 0)
					var out bytes.Buffer
					if err := Encode(&out, format, obj); err != nil {
						t.Fatal(err)
					}
					d := &decoder{file: "x"}
					got := mustDecodeRaw(t, d, kind, out.Bytes())
					if diff := cmp.Diff(obj, got, protocmp.Transform()); diff != "" {
						t.Fatalf("(-want +got):\n%s\n%s", diff, out.String())
					}
				}
			})
		}
	}
}

// mustDecodeRaw reads without Validate, which random values don't pass.
func mustDecodeRaw(t *testing.T, d *decoder, kind Kind, data []byte) Object {
	t.Helper()
	obj, errs := decodeRaw(d, kind, data)
	if len(errs) > 0 {
		t.Fatalf("%v\n%s", errs, data)
	}
	return obj
}

// fill sets fields to random values that a file can hold.
func fill(rnd *rand.Rand, m protoreflect.Message, depth int) {
	switch v := m.Interface().(type) {
	case *timestamppb.Timestamp:
		v.Seconds, v.Nanos = rnd.Int64N(4e9), int32(rnd.IntN(1e9))
		return
	case *structpb.Value:
		v.Kind = randomValue(rnd, depth).GetKind()
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if rnd.IntN(4) == 0 || depth > 6 {
			continue
		}
		switch {
		case fd.IsMap():
			mp := m.Mutable(fd).Map()
			for range 1 + rnd.IntN(3) {
				key := protoreflect.ValueOfString(randomText(rnd) + "k").MapKey()
				if fd.MapValue().Message() != nil {
					v := mp.NewValue()
					fill(rnd, v.Message(), depth+1)
					mp.Set(key, v)
					continue
				}
				mp.Set(key, randomScalar(rnd, fd.MapValue()))
			}
		case fd.IsList():
			list := m.Mutable(fd).List()
			for range 1 + rnd.IntN(2) {
				if fd.Message() != nil {
					fill(rnd, list.AppendMutable().Message(), depth+1)
					continue
				}
				list.Append(randomScalar(rnd, fd))
			}
		case fd.Message() != nil:
			fill(rnd, m.Mutable(fd).Message(), depth+1)
		default:
			m.Set(fd, randomScalar(rnd, fd))
		}
	}
}

func randomScalar(rnd *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(randomText(rnd))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(1 + rnd.IntN(values.Len()-1)).Number())
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(randomText(rnd) + "b"))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(rnd.NormFloat64() * 1e6)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(rnd.Uint32()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(rnd.Uint64()))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(rnd.Uint32())
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(rnd.Uint64())
	}
	panic("no value for " + fd.Kind().String())
}

func randomText(rnd *rand.Rand) string {
	words := []string{"", "a", "true", "null", "~", "012", "0x1f", "1e3", "1:2:3", "52:54:00:77:00:01", " lead", "trail ", "two\nlines\n", "\n", "\ttab",
		"- dash", "# hash", "a: b", "a #b", "${{ x }}", "é", "😀", "quote\"'", "\\u0041", "<<", "=", "*a", "&a", "!t", "%", "@", "`", "{", "2026-01-02", "\u2028", "\u0085", "\r\n", "\x01", strings.Repeat("long ", 40)}
	return words[rnd.IntN(len(words))]
}

func randomValue(rnd *rand.Rand, depth int) *structpb.Value {
	n := 6
	if depth > 5 {
		n = 4
	}
	switch rnd.IntN(n) {
	case 0:
		return structpb.NewNullValue()
	case 1:
		return structpb.NewBoolValue(rnd.IntN(2) == 0)
	case 2:
		return structpb.NewNumberValue([]float64{0, 1, -1, 1.5, 1e300, 1e-9, 9007199254740992, 12345678901234567000}[rnd.IntN(8)])
	case 3:
		return structpb.NewStringValue(randomText(rnd))
	case 4:
		return structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{randomValue(rnd, depth+1), randomValue(rnd, depth+1)}})
	}
	return structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{randomText(rnd): randomValue(rnd, depth+1)}})
}

func TestEncode_Lists(t *testing.T) {
	a := &pb.Image{Metadata: &pb.Metadata{Name: "a"}, Spec: &pb.ImageSpec{}, Status: &pb.ImageStatus{State: pb.ImageState_IMAGE_READY}}
	b := &pb.Image{Metadata: &pb.Metadata{Name: "b"}, Spec: &pb.ImageSpec{}}
	for _, format := range []Format{YAML, JSON} {
		for n := range 3 {
			var out bytes.Buffer
			want := []Object{a, b}[:n]
			if err := Encode(&out, format, want...); err != nil {
				t.Fatal(err)
			}
			items, err := Decode("x", &out)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, objects(items), protocmp.Transform()); diff != "" && n > 0 {
				t.Errorf("%d as %s (-want +got):\n%s", n, format, diff)
			}
		}
	}
	if err := Encode(&bytes.Buffer{}, "xml", a); err == nil {
		t.Error("xml was accepted")
	}
}

// Every enum value has a short name of its own that is read again.
func TestEnumName(t *testing.T) {
	for _, e := range []protoreflect.Enum{
		pb.MachineState(0), pb.NextBoot(0), pb.DHCPMode(0), pb.UnknownMachines(0), pb.ImageState(0),
		pb.InstanceState(0), pb.WorkflowState(0), pb.StepState(0), pb.Role(0), pb.ChangeType(0),
	} {
		values := e.Descriptor().Values()
		for i := range values.Len() {
			n := values.Get(i).Number()
			name := enumName(e.Descriptor(), n)
			if n == 0 {
				if name != "" {
					t.Errorf("%s 0 is %q", e.Descriptor().Name(), name)
				}
				continue
			}
			if got, ok := enumNumber(e.Descriptor(), name); !ok || got != n || name != strings.ToLower(name) {
				t.Errorf("%s %d is %q, which is read as %d", e.Descriptor().Name(), n, name, got)
			}
		}
	}
	if got, want := EnumName(pb.StepState_STEP_RUNNING), "running"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Whatever is read is written and read again as the same.
func FuzzDecode(f *testing.F) {
	for _, pattern := range []string{"*.good.yaml", "*.bad.yaml", "*.good.json"} {
		names, err := filepath.Glob(filepath.Join("testdata", pattern))
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			if len(data) < 4096 {
				f.Add(data)
			}
		}
	}
	f.Add([]byte("apiVersion: bedplate/v1\nkind: Image\nmetadata: {name: a}\nspec: {<<: [{os: a}, {os: b}], ? x : y}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		begun := time.Now()
		items, err := Decode("x.yaml", bytes.NewReader(data))
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		if err != nil {
			return
		}
		for _, format := range []Format{YAML, JSON} {
			var out bytes.Buffer
			if err := Encode(&out, format, objects(items)...); err != nil {
				t.Fatal(err)
			}
			text := out.String()
			again, err := Decode("again", &out)
			if err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if diff := cmp.Diff(objects(items), objects(again), protocmp.Transform()); diff != "" {
				t.Fatalf("as %s (-first +again):\n%s\n%s", format, diff, text)
			}
		}
	})
}
