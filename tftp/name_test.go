package tftp

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestCleanName(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"undionly.kpxe", "undionly.kpxe"},
		{"/undionly.kpxe", "undionly.kpxe"},
		{`\EFI\boot\bootx64.efi`, "EFI/boot/bootx64.efi"},
		{"//grub//x86_64-efi/command.lst", "grub/x86_64-efi/command.lst"},
		{"./a/./b/", "a/b"},
		{"a..b", "a..b"},
		{"", ""}, {"/", ""}, {"..", ""}, {"a/../b", ""}, {`..\a`, ""}, {"a\x00b", ""}, {"a\xff", ""}, {"a\nb", ""},
		{strings.Repeat("a", 256), ""},
	} {
		got, err := CleanName(test.in)
		if got != test.want || (err != nil) != (test.want == "") {
			t.Errorf("%q: got %q, %v; want %q", test.in, got, err, test.want)
		}
		if err != nil && !errors.Is(err, ErrName) {
			t.Errorf("%q: %v is not ErrName", test.in, err)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"undionly.kpxe", "/a", `\a\b`, "a/../../b", "./.", "a//b", "\x00", "é"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out, err := CleanName(in)
		if err != nil {
			return
		}
		if again, err := CleanName(out); err != nil || again != out {
			t.Errorf("%q: cleaned again: %q, %v", out, again, err)
		}
		if path.Clean("/"+out) != "/"+out || strings.HasPrefix(out, "/") || len(out) > len(in) {
			t.Errorf("%q: %q is not confined", in, out)
		}
	})
}
