package script

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// input is the first file of each archive: exactly one field is set.
type input struct {
	First   *First
	Agent   *Agent
	Disk    *Disk
	Message *Message
	Medium  *Medium
	Live    *Live
}

// TestGolden makes each testdata/*.txtar's scripts from its input.json.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := &txtar.Archive{Comment: archive.Comment, Files: append(archive.Files[:1:1], render(t, archive.Files[0].Data)...)}
			if *update {
				if err := os.WriteFile(file, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
				t.Error("run with -update to accept (-want +got):\n" + diff)
			}
		})
	}
}

func render(t *testing.T, data []byte) []txtar.File {
	t.Helper()
	var in input
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		t.Fatal(err)
	}
	var files []txtar.File
	add := func(name string, make func() ([]byte, error)) {
		content, err := make()
		if err != nil {
			name, content = name+".error", []byte(err.Error()+"\n")
		}
		files = append(files, txtar.File{Name: name, Data: content})
	}
	switch {
	case in.First != nil:
		add("ipxe", in.First.IPXE)
	case in.Agent != nil:
		add("ipxe", in.Agent.IPXE)
		add("grub", in.Agent.GRUB)
	case in.Live != nil:
		add("ipxe", in.Live.IPXE)
		add("grub", in.Live.GRUB)
	case in.Disk != nil:
		add("ipxe", in.Disk.IPXE)
		add("grub", in.Disk.GRUB)
	case in.Medium != nil:
		add("grub", in.Medium.GRUB)
	case in.Message != nil:
		add("ipxe", in.Message.IPXE)
		add("grub", in.Message.GRUB)
	}
	return files
}

func TestCheckArg(t *testing.T) {
	for _, good := range []string{
		"quiet", "console=ttyS0,115200n8", "bedplate.http=http://10.77.0.1:8080", `dyndbg="file drivers/net/* +p"`,
		"a=b&&c", "a=b;c", "x=#1", "intel_iommu=on", `a='x'`, "cost=$5", "a=%20",
	} {
		if err := CheckArg(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "a b", "a\nboot", "a\tb", "a\x00", "é", "${net0/mac}", "#comment", "&&", "||", ";", `a="b`, `a="b  c"`, `a="b && c"`,
		`a="b #c"`, " a", "a ", `"a" b`, strings.Repeat("a", maxArg+1),
	} {
		if err := CheckArg(bad); !errors.Is(err, ErrValue) {
			t.Errorf("%q: got %v, want ErrValue", bad, err)
		}
	}
}

// FuzzAgent checks that no argument changes which commands a script has.
func FuzzAgent(f *testing.F) {
	for _, seed := range []string{"quiet", "a || shell", "${x}", "a\nshell", "#", `a="b c"`, "'; reboot; '", "$(x)", "`"} {
		f.Add("rack1", seed)
		f.Add(seed, "quiet")
	}
	plain := Agent{Machine: "m", KernelURL: "http://h/agent/kernel", InitramfsURL: "http://h/agent/initramfs", Args: []string{"quiet"}}
	want, err := plain.IPXE()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, arg string) {
		a := plain
		a.Machine, a.Args = name, []string{arg}
		if name == "" {
			return // another script
		}
		got, err := a.IPXE()
		if err != nil {
			return
		}
		if diff := cmp.Diff(commands(string(want)), commands(string(got))); diff != "" {
			t.Errorf("%q, %q (-want +got):\n%s", name, arg, diff)
		}
		if strings.Count(string(got), "${") != strings.Count(string(want), "${") {
			t.Errorf("%q, %q expand", name, arg)
		}
	})
}

// FuzzMedium checks that no name or argument adds a command to a script or ends
// a quotation: outside of quotes it is always the same.
func FuzzMedium(f *testing.F) {
	for _, seed := range []string{"quiet", "a'b", "$(x)", "a;reboot", "a\nreboot", "`x`", "\\", "{}", "'; halt; '", "#"} {
		f.Add("rack1", seed, "ttyS0,115200")
		f.Add(seed, "quiet", seed)
	}
	plain := Medium{Machine: "m", Kernel: "/k", Initrds: []string{"/i"}, Args: []string{"quiet"}}
	want, err := plain.GRUB()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, arg, console string) {
		m := plain
		m.Machine, m.Args, m.Console = name, []string{arg}, console
		got, err := m.GRUB()
		if err != nil {
			return
		}
		text := regexp.MustCompile(`(?s)if \[ "\$grub_platform".*?\nfi\n`).ReplaceAllString(string(got), "")
		if diff := cmp.Diff(unquoted(string(want)), unquoted(text)); diff != "" {
			t.Errorf("%q, %q, %q (-want +got):\n%s", name, arg, console, diff)
		}
	})
}

// unquoted returns what of a GRUB script is outside of single quotes and
// comments. A quote within is written as the end of one, a quote, and the next.
func unquoted(script string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(script, `'\''`, "")) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		quoted := false
		for _, r := range line {
			if r == '\'' {
				quoted = !quoted
			} else if !quoted {
				b.WriteRune(r)
			}
		}
		if quoted {
			b.WriteString("…")
		}
	}
	return b.String()
}

// commands lists the first word of each command of an iPXE script, split as iPXE does.
func commands(script string) []string {
	var out []string
	for line := range strings.Lines(script) {
		first := true
		for _, word := range strings.Fields(line) {
			switch {
			case strings.HasPrefix(word, "#"):
				out = append(out, "#")
			case special(word):
				first = true
				continue
			case first:
				out = append(out, word)
				first = false
				continue
			default:
				continue
			}
			break
		}
		out = append(out, "\n")
	}
	return out
}

// TestGRUB_Syntax has GRUB's own parser read each golden configuration.
func TestGRUB_Syntax(t *testing.T) {
	check, err := exec.LookPath("grub-script-check")
	if err != nil {
		t.Skip("SKIPPED: grub-script-check is not installed: apt-get install grub-common")
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range archive.Files {
			if f.Name != "grub" {
				continue
			}
			cmd := exec.Command(check)
			cmd.Stdin = bytes.NewReader(f.Data)
			if said, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", file, err, said)
			}
		}
	}
}
