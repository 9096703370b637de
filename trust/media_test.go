package trust

import (
	"bytes"
	"crypto/rand"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/machine"
)

func TestMediaTokens(t *testing.T) {
	dir := t.TempDir()
	tokens := mustKey(t, dir).MediaTokens(rand.Reader)
	id, err := tokens.NewID()
	if err != nil {
		t.Fatal(err)
	}
	want := MediaToken{Machine: "web-1", ID: id, Expires: start.Add(time.Hour)}
	token, err := tokens.Mint(want)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("says whose it is, any number of times, also after a restart", func(t *testing.T) {
		for range 2 {
			got, err := mustKey(t, dir).MediaTokens(rand.Reader).Verify(token, start.Add(59*time.Minute))
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("%v, token (-want +got):\n%s", err, diff)
			}
		}
	})
	t.Run("the same medium has the same token", func(t *testing.T) {
		if again, err := tokens.Mint(want); err != nil || again != token {
			t.Errorf("%q and %q, %v", token, again, err)
		}
	})
	t.Run("an expired one says so and whose it was", func(t *testing.T) {
		if got, err := tokens.Verify(token, start.Add(time.Hour)); !errors.Is(err, ErrExpiredMedium) || got.Machine != "web-1" {
			t.Errorf("%+v, %v", got, err)
		}
	})
	t.Run("altered or cut in any place it is foreign", func(t *testing.T) {
		for i := range len(token) {
			altered := []byte(token)
			altered[i] ^= 1
			for _, bad := range []string{string(altered), token[:i]} {
				if _, err := tokens.Verify(bad, start); !errors.Is(err, ErrForeignMedium) {
					t.Errorf("%q: %v, want ErrForeignMedium", bad, err)
				}
			}
		}
	})
	t.Run("a boot token is no media token, nor the other way round", func(t *testing.T) {
		boot := mustKey(t, dir).BootTokens(rand.Reader, 0)
		minted, err := boot.Mint("web-1", testMAC, start)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{minted, mediaTokenPrefix + strings.TrimPrefix(minted, bootTokenPrefix)} {
			if _, err := tokens.Verify(bad, start); !errors.Is(err, ErrForeignMedium) {
				t.Errorf("%q: %v", bad, err)
			}
		}
		for _, bad := range []string{token, bootTokenPrefix + strings.TrimPrefix(token, mediaTokenPrefix)} {
			if _, err := boot.Verify(bad, start); !errors.Is(err, ErrForeignToken) {
				t.Errorf("%q: %v", bad, err)
			}
		}
	})
	t.Run("one for nobody, for a name that is too long or for no medium is not made", func(t *testing.T) {
		for _, bad := range []MediaToken{{ID: id}, {Machine: machine.Name(strings.Repeat("a", 254)), ID: id}, {Machine: "m"}, {Machine: "m", ID: "00"}} {
			bad.Expires = start
			if _, err := tokens.Mint(bad); err == nil {
				t.Errorf("%+v was made", bad)
			}
		}
	})
}

func TestMediaTokens_URLKey(t *testing.T) {
	dir := t.TempDir()
	tokens := mustKey(t, dir).MediaTokens(rand.Reader)
	medium := MediaToken{Machine: "web-1", ID: "0123456789abcdef", Expires: start}
	key, err := tokens.URLKey(medium)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("is short, needs no quoting, and names the medium", func(t *testing.T) {
		if len(key) != 32 || url.PathEscape(key) != key || strings.ToLower(key) != key {
			t.Errorf("key %q", key)
		}
		if got, ok := URLID(key); !ok || got != medium.ID {
			t.Errorf("id %q, %t", got, ok)
		}
	})
	t.Run("is of that machine, medium and expiry alone", func(t *testing.T) {
		if !tokens.VerifyURLKey(key, medium) {
			t.Error("not its own")
		}
		other, later, next := medium, medium, medium
		other.Machine, later.Expires, next.ID = "web-2", start.Add(time.Second), "0123456789abcdee"
		for _, m := range []MediaToken{other, later, next, {}} {
			if tokens.VerifyURLKey(key, m) {
				t.Errorf("it opens %+v", m)
			}
		}
		if mustKey(t, t.TempDir()).MediaTokens(rand.Reader).VerifyURLKey(key, medium) {
			t.Error("another server takes it")
		}
	})
	t.Run("altered or cut it opens nothing", func(t *testing.T) {
		for i := range len(key) {
			altered := []byte(key)
			altered[i] = 'a' + (altered[i]-'a'+1)%26
			if tokens.VerifyURLKey(string(altered), medium) || tokens.VerifyURLKey(key[:i], medium) {
				t.Errorf("byte %d", i)
			}
		}
	})
	t.Run("tells nothing of the token", func(t *testing.T) {
		token, err := tokens.Mint(medium)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := metadataEncoding.DecodeString(key)
		if err != nil {
			t.Fatal(err)
		}
		body, err := medium.body()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains([]byte(token), raw[mediaIDSize:]) || bytes.Equal(raw[mediaIDSize:], tag(tokens.token, body, mediaURLTagSize)) {
			t.Error("both are made with the same key")
		}
	})
}

// FuzzMediaTokens_Verify looks for a token or URL key that is good without
// having been made here, and for panics.
func FuzzMediaTokens_Verify(f *testing.F) {
	tokens := (&Key{media: make([]byte, 32), mediaURL: make([]byte, 32)}).MediaTokens(rand.Reader)
	medium := MediaToken{Machine: "web-1", ID: "0123456789abcdef", Expires: start.Add(time.Hour)}
	minted, err := tokens.Mint(medium)
	if err != nil {
		f.Fatal(err)
	}
	key, err := tokens.URLKey(medium)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{minted, key, "", "bpm_", minted[:20], strings.ToUpper(minted)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, err := tokens.Verify(s, start); err == nil && s != minted {
			t.Errorf("%q is good: %+v", s, got)
		}
		if _, ok := URLID(s); ok && s != key && tokens.VerifyURLKey(s, medium) {
			t.Errorf("%q opens the medium", s)
		}
	})
}
