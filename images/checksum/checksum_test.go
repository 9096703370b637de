package checksum

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	long := strings.Repeat("c", 128)
	for _, tc := range []struct {
		name, list string
		want       Digest
		err        error
	}{
		{"GNU, text", a + "  disk.img\n" + b + "  other.img\n", Digest("sha256:" + a), nil},
		{"GNU, binary", b + " *disk.img\n", Digest("sha256:" + b), nil},
		{"BSD", "# disk.img: 9 bytes\nSHA256 (disk.img) = " + a + "\n", Digest("sha256:" + a), nil},
		{"BSD, SHA-512", "SHA512 (disk.img) = " + long + "\n", Digest("sha512:" + long), nil},
		{"a path before the name", a + "  ./images/disk.img\n", Digest("sha256:" + a), nil},
		{"a lone digest", a + "\n", Digest("sha256:" + a), nil},
		{"the stronger of two", a + "  disk.img\n" + long + "  disk.img\n", Digest("sha512:" + long), nil},
		{"DOS line ends", a + "  disk.img\r\n", Digest("sha256:" + a), nil},
		{"another file only", a + "  other.img\n", "", ErrNotListed},
		{"a name that only ends like it", a + "  evil-disk.img\n", "", ErrNotListed},
		{"two digests of one file", a + "  disk.img\n" + b + "  disk.img\n", "", ErrAmbiguous},
		{"MD5 and SHA-1 don't count", strings.Repeat("d", 32) + "  disk.img\n" + strings.Repeat("d", 40) + "  disk.img\n", "", ErrNotListed},
		{"a page that says there is none", "<html>404</html>", "", ErrNotListed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Find([]byte(tc.list), "disk.img")
			if got != tc.want || !errors.Is(err, tc.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tc.want, tc.err)
			}
		})
	}
}

func TestDigest_Is(t *testing.T) {
	h := sha256.New()
	h.Write([]byte("x"))
	d, err := ParseDigest("sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881")
	if err != nil || !d.Is(h) {
		t.Errorf("SHA-256 of x isn't %s (%v)", d, err)
	}
	h.Write([]byte("y"))
	if d.Is(h) {
		t.Error("SHA-256 of xy is that of x")
	}
	for _, bad := range []string{"", "sha256:", "sha512:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881", "md5:00"} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("%q is taken for a digest", bad)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 64)+"  disk.img\n"), "disk.img")
	f.Add([]byte("SHA512 (disk.img) = "+strings.Repeat("c", 128)), "disk.img")
	f.Fuzz(func(t *testing.T, list []byte, file string) {
		d, err := Find(list, file)
		if err != nil {
			return
		}
		if again, err := ParseDigest(string(d)); err != nil || again != d {
			t.Errorf("found %q, which is no digest: %v", d, err)
		}
	})
}
