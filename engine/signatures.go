package engine

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/signature"
	"github.com/bedplate/bedplate/images/source"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// errUnsigned means that content that has to be signed isn't.
var errUnsigned = errors.New("no key that the image catalogue knows has signed it")

// signatures checks images by the keys of the server's own catalogue: what a
// client says of keys counts for nothing.
type signatures struct {
	catalog *catalog.Catalog
	// all images have to be signed.
	all bool
	now func() time.Time
}

// Check implements api.SignatureChecker.
func (s signatures) Check(image *pb.Image, content io.Reader) (digest, signedBy string, err error) {
	o := image.GetSpec().GetOrigin()
	if o.GetKind() == "" {
		if s.wanted(image) {
			return "", "", fmt.Errorf("%w, and %s: import it by the name of a catalogue entry", errUnsigned, s.why())
		}
		return "", "", nil
	}
	e, ok := s.catalog.Named(o.GetEntry())
	if !ok || len(e.Keys) == 0 {
		return "", "", fmt.Errorf("the server's image catalogue has no keys of %q (spec.origin.entry): add it to the folder of --image-catalog", o.GetEntry())
	}
	proof := source.Proof{Kind: o.GetKind(), Of: o.GetOf(), Name: o.GetFile(), Checksums: o.GetChecksums(), Signature: o.GetSignature(), Keys: o.GetKeys()}
	return proof.Check(signature.Trust{Kind: o.GetKind(), Keys: o.GetKeys(), Fingerprints: e.Fingerprints(), Now: s.now()}, content)
}

func (s signatures) wanted(image *pb.Image) bool {
	return s.all || image.GetSpec().GetRequireSignature()
}

func (s signatures) why() string {
	if s.all {
		return "this server takes only signed images"
	}
	return "spec.require_signature wants that"
}

// allow refuses to put an image on machines that has to be signed, but isn't.
func (s signatures) allow(image *pb.Image) error {
	if !s.wanted(image) {
		return nil
	}
	name, sig := image.GetMetadata().GetName(), image.GetStatus().GetSignature()
	switch {
	case image.GetSpec().GetLive() != nil:
		return nil // its parts are images, each asked about by itself
	case image.GetSpec().GetUrl() != "" && image.GetStatus().GetDigest() == "":
		return fmt.Errorf("image %s comes from a URL, where nothing says whose it is, and %s: import its content", name, s.why())
	case sig.GetSignedBy() == "" || sig.GetDigest() != image.GetStatus().GetDigest():
		return fmt.Errorf("image %s: %w, and %s", name, errUnsigned, s.why())
	}
	return nil
}
