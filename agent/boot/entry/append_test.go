package entry

import (
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestAppendGRUB(t *testing.T) {
	args := []string{"console=ttyS0,115200", "quiet", "dyndbg=file a +p"}
	for name, c := range map[string]struct{ in, out string }{
		"every kernel command gets them": {
			"menuentry 'a' {\n\tlinux\t/vmlinuz root=UUID=1 ro\n\tinitrd /initrd\n}\nmenuentry 'b' {\n  linuxefi /vmlinuz ro  \n}\n",
			"menuentry 'a' {\n\tlinux\t/vmlinuz root=UUID=1 ro console=ttyS0,115200 quiet 'dyndbg=file a +p'\n\tinitrd /initrd\n}\nmenuentry 'b' {\n  linuxefi /vmlinuz ro console=ttyS0,115200 quiet 'dyndbg=file a +p'\n}\n",
		},
		"one that has them is left": {
			"linux /vmlinuz console=ttyS0,115200 quiet 'dyndbg=file a +p'",
			"linux /vmlinuz console=ttyS0,115200 quiet 'dyndbg=file a +p'",
		},
		"a command that goes on in the next line": {
			"linux /vmlinuz \\\n  ro\n", "linux /vmlinuz console=ttyS0,115200 quiet 'dyndbg=file a +p' \\\n  ro\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, found := AppendGRUB(c.in, args)
			if got != c.out || !found {
				t.Errorf("got  %q, %v\nwant %q", got, found, c.out)
			}
			if again, _ := AppendGRUB(got, args); again != got {
				t.Errorf("a second time it is %q", again)
			}
		})
	}
	t.Run("a configuration that only leads to another has none", func(t *testing.T) {
		if _, found := AppendGRUB("configfile /grub2/grub.cfg\n# linux\n", args); found {
			t.Error("found a kernel")
		}
	})
}

// TestAppendGRUB_Find shows that the interpreter of this package, which is held
// against real configurations, reads the arguments back.
func TestAppendGRUB_Find(t *testing.T) {
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".cfg") {
			continue
		}
		b, err := os.ReadFile("testdata/" + f.Name())
		if err != nil {
			t.Fatal(err)
		}
		text, found := AppendGRUB(string(b), []string{"bedplate.proof=1"})
		if !found {
			continue
		}
		tried++
		if a, b := strings.Count(text, "bedplate.proof=1"), kernels(string(b)); a != b {
			t.Errorf("%s: %d kernels, %d of them have the argument", f.Name(), b, a)
		}
	}
	volume := Volume{Number: 1, FS: fstest.MapFS{
		"boot/grub/grub.cfg": {Data: []byte(must(AppendGRUB("menuentry a {\n linux /vmlinuz ro\n}\n", []string{"p=a b", "q"})))},
		"vmlinuz":            {},
	}}
	e, err := Find([]Volume{volume}, false)
	if err != nil || e.Cmdline != `ro "p=a b" q` {
		t.Errorf("%q, %v", e.Cmdline, err)
	}
	t.Logf("%d configurations of testdata", tried)
}

func must(text string, _ bool) string { return text }

func kernels(text string) (n int) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "linux" || f[0] == "linux16" || f[0] == "linuxefi") {
			n++
		}
	}
	return n
}

func TestAppendBLS(t *testing.T) {
	args := []string{"console=ttyS0", "name=a b"}
	for name, c := range map[string]struct {
		in, out string
		linux   bool
	}{
		"options get them":         {"title a\nlinux /k\noptions root=/dev/a ro\n", "title a\nlinux /k\noptions root=/dev/a ro console=ttyS0 name=\"a b\"\n", true},
		"none, then there are":     {"title a\nlinux /k", "title a\nlinux /k\noptions console=ttyS0 name=\"a b\"\n", true},
		"the second has it":        {"linux /k\noptions ro\noptions console=ttyS0\n", "linux /k\noptions ro name=\"a b\"\noptions console=ttyS0\n", true},
		"what is no Linux is left": {"title a\nefi /EFI/a.efi\noptions x\n", "title a\nefi /EFI/a.efi\noptions x\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, linux := AppendBLS(c.in, args)
			if got != c.out || linux != c.linux {
				t.Errorf("got  %q, %v\nwant %q", got, linux, c.out)
			}
		})
	}
}

func TestAppendSources(t *testing.T) {
	args := []string{"a=$x", "b"}
	want := "GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX a=\\$x b\"\n"
	got, _ := AppendGRUBDefaults("GRUB_DEFAULT=0", args)
	if again, _ := AppendGRUBDefaults(got, args); got != want || again != want {
		t.Errorf("got %q, again %q", got, again)
	}
	if got, _ := AppendCmdline("root=/dev/a  ro\n", []string{"ro", "b"}); got != "root=/dev/a ro b\n" {
		t.Errorf("got %q", got)
	}
}

func FuzzAppend(f *testing.F) {
	f.Add("menuentry 'a' {\n\tlinux /k ro \\\n x\n}\n", "console=ttyS0")
	f.Add("title a\nlinux /k\noptions a b\n", "a=b")
	f.Fuzz(func(t *testing.T, text, arg string) {
		odd := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\", r) }
		if arg == "" || strings.ContainsFunc(arg, odd) {
			return // The server takes no such argument.
		}
		for name, change := range map[string]func(string, []string) (string, bool){"GRUB": AppendGRUB, "BLS": AppendBLS, "defaults": AppendGRUBDefaults, "cmdline": AppendCmdline} {
			once, _ := change(text, []string{arg})
			if twice, _ := change(once, []string{arg}); twice != once {
				t.Errorf("%s: once %q, twice %q", name, once, twice)
			}
		}
	})
}
