package roster

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// TestRead reads the files of each archive in testdata, and compares what
// comes of it with the file `want`. The comment may have a line of options.
func TestRead(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(names) < 10 {
		t.Fatalf("%d archives, %v", len(names), err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			var files []File
			want := -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = i
				} else {
					files = append(files, File{f.Name, f.Data})
				}
			}
			got := transcript(t, files, parseOptions(t, string(archive.Comment)))
			if *update {
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(name, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func parseOptions(t *testing.T, comment string) (o Options) {
	t.Helper()
	_, line, found := strings.Cut(comment, "options:")
	if !found {
		return o
	}
	for _, word := range strings.Fields(line) {
		key, v, _ := strings.Cut(word, "=")
		switch key {
		case "ignore":
			o.Ignore = append(o.Ignore, v)
		case "secret":
			o.Secret = v
		case "pool":
			o.Pool = v
		case "label":
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			k, value, _ := strings.Cut(v, "=")
			o.Labels[k] = value
		default:
			t.Fatalf("unknown option %s", word)
		}
	}
	return o
}

// transcript writes what comes of files.
func transcript(t *testing.T, files []File, o Options) string {
	t.Helper()
	list, err := Read(files, o)
	if err != nil {
		var wrong resource.FileErrors
		if !errors.As(err, &wrong) || len(list.Machines) > 0 {
			t.Fatalf("%d machines, %v", len(list.Machines), err)
		}
		return err.Error() + "\n"
	}
	var objs []resource.Object
	for _, s := range list.Secrets {
		objs = append(objs, s)
	}
	for _, m := range list.Machines {
		objs = append(objs, m.Machine)
	}
	for _, item := range list.Resources {
		objs = append(objs, item.Object)
	}
	var out strings.Builder
	for _, n := range list.Notes {
		fmt.Fprintf(&out, "# %s\n", n)
	}
	if err := resource.Encode(&out, resource.YAML, objs...); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestMachine_Item(t *testing.T) {
	list, err := Read([]File{{"a.csv", []byte("name,serial,mac,mac2,address2,labels.a/b\nweb-1,S1,52:54:00:77:00:01,52:54:00:77:00:02,10.0.0.1/24,x\n")}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	item := list.Machines[0].Item()
	for path, want := range map[string]string{
		"spec.serial": "a.csv:2:7", "spec.interfaces[1].address": "a.csv:2:46", "spec.interfaces[0].gateway": "a.csv:2:10",
		"spec.bmc.address": "a.csv:2:1", `metadata.labels["a/b"]`: "a.csv:2:58",
	} {
		line, column := item.Position(path)
		if got := fmt.Sprintf("%s:%d:%d", item.File, line, column); got != want {
			t.Errorf("%s is at %s, want %s", path, got, want)
		}
	}
}

func TestDetect(t *testing.T) {
	for _, tt := range []struct {
		name, data string
		want       Format
	}{
		{"a.csv", "", CSV}, {"a.TSV", "", CSV}, {"a.yml", "", YAML}, {"a.json", "\xef\xbb\xbf [{}]", NetBox}, {"a.json", `{"apiVersion": "bedplate/v1"}`, YAML},
		{"stdin", "name,mac\n", CSV}, {"stdin", "name\tmac\n", CSV}, {"stdin", "- name: a, b\n", YAML}, {"stdin", "machines:\n", YAML}, {"stdin", `{"results": []}`, NetBox}, {"stdin", "", YAML},
	} {
		if got := Detect(File{tt.name, []byte(tt.data)}, Auto); got != tt.want {
			t.Errorf("%s %q is %s, want %s", tt.name, tt.data, got, tt.want)
		}
	}
	if got := Detect(File{"a.csv", nil}, YAML); got != YAML {
		t.Errorf("asked for YAML, got %s", got)
	}
}

func TestRead_Bounds(t *testing.T) {
	t.Run("passwords of many machines are in several secrets", func(t *testing.T) {
		var data strings.Builder
		data.WriteString("name,bmc,password\n")
		for i := range secretKeys + 1 {
			fmt.Fprintf(&data, "n%05d,10.0.%d.%d,p\n", i, i/250, i%250)
		}
		list, err := Read([]File{{"a.csv", []byte(data.String())}}, Options{})
		if err != nil || len(list.Secrets) != 2 || len(list.Secrets[1].Spec.Data) != 1 || list.Machines[secretKeys].Spec.Bmc.PasswordSecret != "bmc-passwords-2" {
			t.Errorf("%d secrets, %v", len(list.Secrets), err)
		}
		if err := resource.Validate(list.Secrets[0]); err != nil {
			t.Error(err)
		}
	})
	for what, f := range map[string]File{
		"machines":  {"a.csv", []byte("serial\n" + strings.Repeat("x\n", MaxMachines+10))},
		"bytes":     {"a.yaml", make([]byte, MaxFileBytes+1)},
		"depth":     {"a.json", []byte(strings.Repeat("[", 10_000))},
		"YAML deep": {"a.yaml", []byte(strings.Repeat("- ", 5000) + "a")},
	} {
		t.Run("too many "+what, func(t *testing.T) {
			if _, err := Read([]File{f}, Options{}); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("not more than a hundred mistakes are listed", func(t *testing.T) {
		_, err := Read([]File{{"a.csv", []byte("mac\n" + strings.Repeat("x\n", 1000))}}, Options{})
		var wrong resource.FileErrors
		if !errors.As(err, &wrong) || len(wrong) != maxErrors {
			t.Errorf("%d mistakes", len(wrong))
		}
	})
}

// FuzzRead: no file makes it panic, and what is accepted can be stored.
func FuzzRead(f *testing.F) {
	names, _ := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	for _, name := range names {
		archive, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range archive.Files {
			f.Add(file.Data, uint8(0))
			f.Add(file.Data, uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, format uint8) {
		list, err := Read([]File{{"x", data}}, Options{Format: Formats()[int(format)%len(Formats())]})
		if err != nil {
			if len(list.Machines) > 0 {
				t.Error("machines beside an error")
			}
			return
		}
		for _, m := range list.Machines {
			if err := resource.Validate(m.Machine); err != nil {
				t.Errorf("%v: %v", m.Machine, err)
			}
			m.Item().Position("spec.interfaces[0].mac")
		}
		for _, s := range list.Secrets {
			if err := resource.Validate(s); err != nil {
				t.Errorf("secret: %v", err)
			}
		}
	})
}

func TestMachine_Over(t *testing.T) {
	read := func(text string) Machine {
		t.Helper()
		list, err := Read([]File{{"a.csv", []byte(text)}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		return list.Machines[0]
	}
	current := &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1", Uid: "u", ResourceVersion: 7, Labels: map[string]string{"role": "web", "mine": "yes"}},
		Spec: &pb.MachineSpec{
			Rack: "r1", Maintenance: true, KernelArgs: []string{"quiet"}, Bmc: &pb.BMC{Address: "10.0.0.1", Tls: "ca"},
			Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:09"}, {Mac: "52-54-00-77-00-01", DisableNetboot: true}},
		},
		Status: &pb.MachineStatus{Cause: "x"},
	}
	m := read("name,mac,mac2,address,rack,labels.role,kernel_args,bmc_username,bmc\nweb-1,52:54:00:77:00:01,52:54:00:77:00:02,10.0.0.9/24,r2,db,nomodeset,root,10.0.0.1\n")
	got := m.Over(current)
	want := &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1", Uid: "u", Labels: map[string]string{"role": "db", "mine": "yes"}},
		Spec: &pb.MachineSpec{
			Rack: "r2", Maintenance: true, KernelArgs: []string{"nomodeset"}, Bmc: &pb.BMC{Address: "10.0.0.1", Username: "root", Tls: "ca"},
			Interfaces: []*pb.Interface{{Mac: "52:54:00:77:00:09"}, {Mac: "52-54-00-77-00-01", DisableNetboot: true, Address: "10.0.0.9/24"}, {Mac: "52:54:00:77:00:02"}},
		},
	}
	if diff := cmp.Diff(want, got.Machine, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if line, column := got.Item().Position("spec.interfaces[2].mac"); line != 2 || column != 25 {
		t.Errorf("the second MAC is at %d:%d", line, column)
	}
	if again := m.Over(got.Machine); !proto.Equal(again.Machine, got.Machine) {
		t.Errorf("the second time it is %v", again.Machine)
	}
	if fresh := m.Over(nil); fresh.Machine != m.Machine {
		t.Error("a new machine isn't the list's")
	}
}
