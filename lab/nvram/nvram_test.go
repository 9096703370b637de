package nvram

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// delivered are OVMF's variables with Microsoft's keys, of Debian's package ovmf.
func delivered(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("/usr/share/OVMF/OVMF_VARS_4M.ms.fd")
	if err != nil {
		t.Skipf("no firmware to read: %v", err)
	}
	return b
}

func mustParse(t testing.TB, b []byte) *Store {
	t.Helper()
	s, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func again(t testing.TB, s *Store) *Store {
	t.Helper()
	b, err := s.Image()
	if err != nil {
		t.Fatal(err)
	}
	return mustParse(t, b)
}

// blank is an image with an empty store of 4 KiB.
func blank() []byte {
	b := bytes.Repeat([]byte{0xff}, 8<<10)
	copy(b[40:], "_FVH")
	b[48], b[49] = 0x48, 0
	copy(b[0x48:], authenticated[:])
	copy(b[0x48+16:], []byte{0x00, 0x10, 0, 0, formatted, healthy, 0, 0, 0, 0, 0, 0})
	return b
}

func TestStore(t *testing.T) {
	s := mustParse(t, blank())
	s.SetSetup()
	s.SetURI("http://10.77.0.1:8080/a.efi")
	s.Set("Other", Security, NonVolatile, []byte("x"))
	got := again(t, s)
	if d := cmp.Diff(s.Variables, got.Variables, cmp.AllowUnexported(Variable{})); d != "" {
		t.Errorf("written and read (-want +got):\n%s", d)
	}
	t.Run("a variable that is set again is there once", func(t *testing.T) {
		got.Set("Other", Security, 0, []byte("longer"))
		got := again(t, got)
		if len(got.Variables) != 4 || string(got.Get("Other", Security)) != "longer" {
			t.Errorf("variables are %v", got.Variables)
		}
	})
	t.Run("only our own boot option is cleared", func(t *testing.T) {
		got.Clear()
		if got.Get("BootNext", Global) != nil || got.Get(ownOption, Global) != nil || got.Get("Other", Security) == nil {
			t.Errorf("variables are %v", got.Variables)
		}
		got.Set("BootNext", Global, 7, []byte{1, 0})
		got.Clear()
		if got.Get("BootNext", Global) == nil {
			t.Error("somebody else's BootNext is gone")
		}
	})
	t.Run("what doesn't fit is an error", func(t *testing.T) {
		got.Set("Big", Global, 7, make([]byte, 8<<10))
		if _, err := got.Image(); err == nil {
			t.Error("no error")
		}
	})
	t.Run("a variable in transition counts until its successor is there", func(t *testing.T) {
		one := mustParse(t, blank())
		one.Set("A", Global, 7, []byte("old"))
		b, err := one.Image()
		if err != nil {
			t.Fatal(err)
		}
		b[0x48+storeHeader+2] = inTransition
		if got := mustParse(t, b).Get("A", Global); string(got) != "old" {
			t.Errorf("it is %q", got)
		}
		b[0x48+storeHeader+2] = 0x3d
		if got := mustParse(t, b).Get("A", Global); got != nil {
			t.Errorf("a deleted variable is %q", got)
		}
	})
}

func TestStore_SecureBoot(t *testing.T) {
	factory := mustParse(t, delivered(t))
	s := again(t, factory)
	if enforced, setup := s.SecureBoot(); !enforced || setup {
		t.Fatalf("as delivered: enforced %t, setup mode %t", enforced, setup)
	}
	for name, least := range map[string]int{"PK": 1, "KEK": 1, "db": 2, "dbx": 1} {
		if got := len(s.Signatures(name)); got < least {
			t.Errorf("%s has %d entries, want at least %d", name, got, least)
		}
	}
	s.EnableSecureBoot(false)
	if enforced, _ := again(t, s).SecureBoot(); enforced {
		t.Error("switched off, and enforced")
	}
	s.EnableSecureBoot(true)
	s.DeleteKeys("PK")
	if enforced, setup := again(t, s).SecureBoot(); enforced || !setup {
		t.Errorf("without a platform key: enforced %t, setup mode %t", enforced, setup)
	}
	s.DeleteKeys()
	if got := s.Signatures("db"); len(got) != 0 {
		t.Errorf("db has %d entries", len(got))
	}
	s.RestoreKeys(factory)
	before := len(s.Signatures("db"))
	s.Enrol("db", []byte("a certificate"))
	got := again(t, s).Signatures("db")
	if len(got) != before+1 || string(got[before].Certificate) != "a certificate" {
		t.Errorf("db has %d entries, want %d", len(got), before+1)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(blank())
	s := mustParse(f, blank())
	s.SetURI("http://a/b")
	s.Enrol("db", []byte("c"))
	b, err := s.Image()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		for _, d := range Databases {
			s.Signatures(d.Name)
		}
		s.SecureBoot()
		image, err := s.Image()
		if err != nil {
			return
		}
		if len(image) != len(b) {
			t.Errorf("%d bytes have become %d", len(b), len(image))
		}
		if again, err := Parse(image); err != nil || len(again.Variables) != len(s.Variables) {
			t.Errorf("read again: %v", err)
		}
	})
}
