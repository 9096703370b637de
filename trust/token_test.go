package trust

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/machine"
	"github.com/google/go-cmp/cmp"
)

func mustKey(t testing.TB, dir string) *Key {
	t.Helper()
	k, err := OpenKey(dir, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var testMAC = machine.MAC{0x52, 0x54, 0, 0x77, 0, 1}

func TestBootTokens(t *testing.T) {
	dir := t.TempDir()
	tokens := mustKey(t, dir).BootTokens(rand.Reader, 0)
	mint := func(t *testing.T, name machine.Name, mac machine.MAC) string {
		t.Helper()
		token, err := tokens.Mint(name, mac, start)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := mint(t, "web-1", testMAC)

	t.Run("says whose it is, also after a restart", func(t *testing.T) {
		again := mustKey(t, dir).BootTokens(rand.Reader, 0)
		got, err := again.Verify(token, start.Add(14*time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		want := BootToken{Machine: "web-1", MAC: testMAC, Expires: start.Add(15 * time.Minute), ID: got.ID}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("token (-want +got):\n%s", diff)
		}
		if len(got.ID) != 16 || got.Subject() != "web-1" {
			t.Errorf("id = %q, subject = %q", got.ID, got.Subject())
		}
	})
	t.Run("is short and needs no quoting", func(t *testing.T) {
		if url.QueryEscape(token) != token || len(token) > 64 {
			t.Errorf("token = %q (%d characters)", token, len(token))
		}
	})
	t.Run("two for one machine have their own ids", func(t *testing.T) {
		a, errA := tokens.Verify(token, start)
		b, errB := tokens.Verify(mint(t, "web-1", testMAC), start)
		if errA != nil || errB != nil || a.ID == b.ID {
			t.Errorf("ids %q and %q (%v, %v)", a.ID, b.ID, errA, errB)
		}
	})
	t.Run("an unknown machine's names its address", func(t *testing.T) {
		got, err := tokens.Verify(mint(t, "", testMAC), start)
		if err != nil || !got.Discover() || got.Subject() != "discover:52:54:00:77:00:01" {
			t.Errorf("token = %+v, %v", got, err)
		}
	})
	t.Run("the longest name fits", func(t *testing.T) {
		name := machine.Name(strings.Repeat("a", 253))
		got, err := tokens.Verify(mint(t, name, testMAC), start)
		if err != nil || got.Machine != name {
			t.Errorf("token = %+v, %v", got, err)
		}
	})
	t.Run("an expired one says so and whose it was", func(t *testing.T) {
		got, err := tokens.Verify(token, start.Add(15*time.Minute))
		if !errors.Is(err, ErrExpiredToken) || got.Machine != "web-1" {
			t.Errorf("token = %+v, err = %v; want ErrExpiredToken", got, err)
		}
	})
	t.Run("another server's is foreign", func(t *testing.T) {
		other := mustKey(t, t.TempDir()).BootTokens(rand.Reader, 0)
		if _, err := other.Verify(token, start); !errors.Is(err, ErrForeignToken) {
			t.Errorf("err = %v, want ErrForeignToken", err)
		}
	})
	t.Run("altered in any place it is foreign", func(t *testing.T) {
		for i := range len(token) {
			altered := []byte(token)
			altered[i] ^= 1
			if _, err := tokens.Verify(string(altered), start); !errors.Is(err, ErrForeignToken) {
				t.Errorf("byte %d: err = %v, want ErrForeignToken", i, err)
			}
			if _, err := tokens.Verify(token[:i], start); !errors.Is(err, ErrForeignToken) {
				t.Errorf("cut at %d: err = %v, want ErrForeignToken", i, err)
			}
		}
	})
	t.Run("one for nobody is not made", func(t *testing.T) {
		if _, err := tokens.Mint("", machine.MAC{}, start); err == nil {
			t.Error("no error")
		}
	})
}

// FuzzBootTokens_Verify looks for a token that verifies without having been
// made here, and for panics.
func FuzzBootTokens_Verify(f *testing.F) {
	key := &Key{boot: make([]byte, 32)}
	// The same token in every one of the fuzzer's processes.
	tokens := key.BootTokens(strings.NewReader("random!!"), 0)
	minted, err := tokens.Mint("web-1", testMAC, start)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(minted)
	f.Add("bpb_")
	f.Add("bpb_" + base64.RawURLEncoding.EncodeToString(make([]byte, bootHeaderSize+bootTagSize))) // shortest that is cut up
	f.Add("bpt_" + minted[4:])
	f.Add(minted + "\n") // encoding/base64 passes over line ends
	f.Fuzz(func(t *testing.T, token string) {
		got, err := tokens.Verify(token, start)
		if err == nil && token != minted {
			t.Errorf("%q verifies as %+v", token, got)
		}
	})
}

func FuzzParseAgentRequest(f *testing.F) {
	f.Add([]byte{0x30, 0x00}) // an empty SEQUENCE
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		if req, err := ParseAgentRequest(der); err == nil && !strings.HasPrefix(req.KeyDigest, digestPrefix) {
			t.Errorf("digest = %q", req.KeyDigest)
		}
	})
}

func TestOpenKey_Damaged(t *testing.T) {
	for name, content := range map[string]string{"empty": "", "half": "00112233", "no hexadecimal": strings.Repeat("zz", 32)} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, hmacKeyFile), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenKey(dir, rand.Reader); !errors.Is(err, ErrDamaged) {
				t.Errorf("err = %v, want ErrDamaged", err)
			}
		})
	}
}

func TestKey_MetadataKey(t *testing.T) {
	dir := t.TempDir()
	k := mustKey(t, dir)
	key := k.MetadataKey("web", "uid-1")
	if got := mustKey(t, dir).MetadataKey("web", "uid-1"); got != key || len(key) != 32 {
		t.Errorf("key = %q after a restart, %q before", got, key)
	}
	if !k.VerifyMetadataKey(key, "web", "uid-1") {
		t.Error("its own key is refused")
	}
	for _, other := range [][2]string{{"web", "uid-2"}, {"we", "buid-1"}, {"webu", "id-1"}, {"", "webuid-1"}} {
		if k.VerifyMetadataKey(key, other[0], other[1]) {
			t.Errorf("the key opens %v as well", other)
		}
	}
	if mustKey(t, t.TempDir()).VerifyMetadataKey(key, "web", "uid-1") {
		t.Error("another server accepts it")
	}
}

func TestNewAPIToken(t *testing.T) {
	t.Run("has its form, digest and prefix", func(t *testing.T) {
		token, err := NewAPIToken(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if !IsAPIToken(token.Secret) || !strings.HasPrefix(token.Secret, token.Prefix) || len(token.Prefix) != 10 {
			t.Errorf("token = %+v", token)
		}
		if !EqualDigest(token.Digest, APITokenDigest(token.Secret)) || EqualDigest(token.Digest, APITokenDigest(token.Secret+"x")) {
			t.Errorf("digest = %s", token.Digest)
		}
	})
	t.Run("always has the same length", func(t *testing.T) {
		for _, fill := range []byte{0x00, 0x01, 0xff} {
			token, err := NewAPIToken(bytes.NewReader(bytes.Repeat([]byte{fill}, 32)))
			if err != nil || !IsAPIToken(token.Secret) {
				t.Errorf("fill %#x: %q, %v", fill, token.Secret, err)
			}
		}
	})
	t.Run("other text is none", func(t *testing.T) {
		for _, s := range []string{"", "bpt_", "bpb_" + strings.Repeat("a", 43), "bpt_" + strings.Repeat("-", 43), "bpt_" + strings.Repeat("a", 44)} {
			if IsAPIToken(s) {
				t.Errorf("%q is taken for a token", s)
			}
		}
	})
	t.Run("without randomness there is none", func(t *testing.T) {
		if _, err := NewAPIToken(bytes.NewReader(nil)); err == nil {
			t.Error("no error")
		}
	})
}

func TestSealer(t *testing.T) {
	dir := t.TempDir()
	s, err := OpenSealer(dir)
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]string{"password": "hunter2", "empty": ""}
	sealed, err := s.SealValues("bmc", values)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("opens after a restart", func(t *testing.T) {
		again, err := OpenSealer(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := again.OpenValues("bmc", sealed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(values, got); diff != "" {
			t.Errorf("values (-want +got):\n%s", diff)
		}
	})
	t.Run("does not show its content", func(t *testing.T) {
		if bytes.Contains(sealed, []byte("hunter2")) || bytes.Contains(sealed, []byte("password")) {
			t.Error("content is in clear")
		}
	})
	t.Run("does not open under another name, altered, or elsewhere", func(t *testing.T) {
		other, err := OpenSealer(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		altered := bytes.Clone(sealed)
		altered[len(altered)-1] ^= 1
		for what, open := range map[string]func() (map[string]string, error){
			"name":    func() (map[string]string, error) { return s.OpenValues("bm", sealed) },
			"altered": func() (map[string]string, error) { return s.OpenValues("bmc", altered) },
			"cut":     func() (map[string]string, error) { return s.OpenValues("bmc", sealed[:len(sealed)-3]) },
			"server":  func() (map[string]string, error) { return other.OpenValues("bmc", sealed) },
			"nothing": func() (map[string]string, error) { return s.OpenValues("bmc", nil) },
		} {
			if _, err := open(); !errors.Is(err, ErrSealed) {
				t.Errorf("%s: err = %v, want ErrSealed", what, err)
			}
		}
	})
	t.Run("a damaged key file is not quoted", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, sealKeyFile), []byte("AGE-SECRET-KEY-1QQQQ\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenSealer(dir)
		if !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "QQQQ") {
			t.Errorf("err = %v, want ErrDamaged", err)
		}
	})
}
