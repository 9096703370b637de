package engine

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/signature"
	"github.com/bedplate/bedplate/images/source"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// signedImage returns an image whose list of checksums a new key has signed, and the catalogue that knows the key.
func signedImage(t *testing.T, content string) (*pb.Image, signatures) {
	t.Helper()
	key, err := openpgp.NewEntity("Site", "", "site@example", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	list := fmt.Sprintf("%x  disk.raw\n", sha256.Sum256([]byte(content)))
	var sig, keys bytes.Buffer
	if err := errors.Join(openpgp.DetachSign(&sig, key, strings.NewReader(list), nil), key.Serialize(&keys)); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	entry := fmt.Sprintf(`{name: own, title: Own, description: ours, kind: disk, architectures: {x86_64: x}, firmware: [uefi], configuration: none, first_boot: a, upgrade: b,
keys: [{fingerprint: "%s", url: "https://site.example/key"}]}`, strings.ToUpper(hex.EncodeToString(key.PrimaryKey.Fingerprint)))
	if err := os.WriteFile(filepath.Join(dir, "own.yaml"), []byte(entry), 0o600); err != nil {
		t.Fatal(err)
	}
	known, err := catalog.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	image := &pb.Image{Metadata: &pb.Metadata{Name: "own-1"}, Spec: &pb.ImageSpec{Origin: &pb.ImageOrigin{
		Entry: "own", Kind: "gpg", Of: "checksums", File: "disk.raw", Checksums: []byte(list), Signature: sig.Bytes(), Keys: keys.Bytes(),
	}}}
	return image, signatures{known, true, time.Now}
}

func TestSignatures_Check(t *testing.T) {
	image, s := signedImage(t, "disk")
	digest, by, err := s.Check(image, strings.NewReader("disk"))
	if err != nil || by == "" || digest != fmt.Sprintf("sha256:%x", sha256.Sum256([]byte("disk"))) {
		t.Fatalf("got %s by %q, %v", digest, by, err)
	}
	for _, tc := range []struct {
		name, content string
		change        func(*pb.ImageOrigin)
		want          error
	}{
		{"other content", "disc", func(*pb.ImageOrigin) {}, source.ErrDigest},
		{"a list that was changed", "disc", func(o *pb.ImageOrigin) {
			o.Checksums = fmt.Appendf(nil, "%x  disk.raw\n", sha256.Sum256([]byte("disc")))
		}, signature.ErrSignature},
		{"a client's own key under the name of an entry", "disk", func(o *pb.ImageOrigin) { o.Entry = "flatcar" }, signature.ErrKey},
		{"no signature", "disk", func(o *pb.ImageOrigin) { o.Kind = "" }, errUnsigned},
		{"an entry without keys", "disk", func(o *pb.ImageOrigin) { o.Entry = "debian" }, nil},
		{"an entry that isn't there", "disk", func(o *pb.ImageOrigin) { o.Entry = "nope" }, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			image, s := signedImage(t, "disk")
			tc.change(image.Spec.Origin)
			if _, by, err := s.Check(image, strings.NewReader(tc.content)); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("signed by %q, error %v; want %v", by, err, tc.want)
			}
		})
	}
}

func TestSignatures_Allow(t *testing.T) {
	good := &pb.ImageStatus{Digest: "sha256:1", Signature: &pb.ImageSignature{Digest: "sha256:1", SignedBy: "A"}}
	for _, tc := range []struct {
		name  string
		image *pb.Image
		all   bool
		ok    bool
	}{
		{"unsigned, and nobody minds", &pb.Image{Spec: &pb.ImageSpec{}, Status: &pb.ImageStatus{Digest: "sha256:1"}}, false, true},
		{"unsigned, against the server's policy", &pb.Image{Spec: &pb.ImageSpec{}, Status: &pb.ImageStatus{Digest: "sha256:1"}}, true, false},
		{"unsigned, against the image's own", &pb.Image{Spec: &pb.ImageSpec{RequireSignature: true}, Status: &pb.ImageStatus{Digest: "sha256:1"}}, false, false},
		{"signed", &pb.Image{Spec: &pb.ImageSpec{}, Status: good}, true, true},
		{"signed, but of other content", &pb.Image{Spec: &pb.ImageSpec{}, Status: &pb.ImageStatus{Digest: "sha256:2", Signature: good.Signature}}, true, false},
		{"by a URL", &pb.Image{Spec: &pb.ImageSpec{Url: "https://x/y"}}, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := (signatures{all: tc.all}).allow(tc.image); (err == nil) != tc.ok {
				t.Errorf("error %v", err)
			}
		})
	}
}
