package storage

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"go.yaml.in/yaml/v3"

	"github.com/bedplate/bedplate/agent/disk"
	"github.com/bedplate/bedplate/agent/disk/partition"
	"github.com/bedplate/bedplate/layout"
)

var update = flag.Bool("update", false, "rewrite the plans in testdata")

// layoutOf reads a declaration as people write it.
func layoutOf(t testing.TB, text string) *layout.Layout {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	spec, err := parse(v)
	if err != nil {
		t.Fatal(err)
	}
	l, problems := layout.Read(spec)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return l
}

// disksOf reads one disk a line: name, size in MiB, then blank, unfinished,
// used, holds=WHAT or parts=NAME:TYPE:MIB,….
func disksOf(t testing.TB, text string) map[string]Disk {
	t.Helper()
	out := map[string]Disk{}
	s := bufio.NewScanner(strings.NewReader(text))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 3 {
			continue
		}
		d := Disk{Name: f[0], Path: "/dev/" + f[0], BlockSize: 512}
		var mib int64
		if _, err := fmt.Sscan(f[1], &mib); err != nil {
			t.Fatal(err)
		}
		d.Size = mib << 20
		for _, word := range f[2:] {
			k, v, _ := strings.Cut(word, "=")
			switch k {
			case "blank":
			case "unfinished":
				d.Unfinished, d.Holds = true, append(d.Holds, "gpt")
			case "used":
				d.Users = []string{f[0] + " is mounted at /mnt"}
			case "holds":
				d.Holds = append(d.Holds, v)
			case "parts":
				addParts(t, &d, v)
			default:
				t.Fatalf("what is %q?", word)
			}
		}
		out[d.Name] = d
	}
	return out
}

// addParts gives a disk a GPT whose partitions follow one another.
func addParts(t testing.TB, d *Disk, text string) {
	t.Helper()
	d.Table, d.Holds = &partition.Table{Kind: partition.KindGPT, BlockSize: 512, Disk: partition.RandomGUID([16]byte{1})}, append(d.Holds, "gpt")
	start := uint64(2048)
	for i, p := range strings.Split(text, ",") {
		f := strings.Split(p, ":")
		kind, err := partition.TypeNamed(f[1])
		if err != nil {
			t.Fatal(err)
		}
		var mib int64
		if _, err := fmt.Sscan(f[2], &mib); err != nil {
			t.Fatal(err)
		}
		part := disk.Part{
			Partition: partition.Partition{Number: i + 1, Type: kind.GUID, Label: f[0], Start: start, Blocks: uint64(mib) * 2048},
			Offset:    int64(start) * 512, Length: mib << 20,
		}
		if f[1] == "linux" {
			part.Content = disk.Signature{Type: "ext4"}
		}
		if len(f) > 3 { // added by an earlier try of ours
			part.ID = partitionID(d.Table.Disk, f[0])
		}
		d.Parts = append(d.Parts, part)
		start += part.Blocks
	}
}

// TestPlan compares plans with those of testdata/plan: a declaration, the
// disks as found, and what is to be done, or why nothing is.
func TestPlan(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no plans to compare with: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			section := func(name string) string {
				for _, f := range a.Files {
					if f.Name == name {
						return string(f.Data)
					}
				}
				return ""
			}
			r := Request{Layout: layoutOf(t, section("layout")), Disks: disksOf(t, section("disks"))}
			r.ImageToCome = strings.Contains(string(a.Comment), "check")
			r.Made = strings.Contains(string(a.Comment), "configure")
			var got bytes.Buffer
			ops, err := Plan(r)
			for _, op := range ops {
				fmt.Fprintln(&got, op.Text)
			}
			if err != nil {
				fmt.Fprintln(&got, "error: "+strings.ReplaceAll(err.Error(), "\n", "\nerror: "))
			}
			if *update {
				for i, f := range a.Files {
					if f.Name == "plan" {
						a.Files[i].Data = got.Bytes()
					}
				}
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(section("plan"), got.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", bytes.TrimSpace(a.Comment), diff)
			}
		})
	}
}
