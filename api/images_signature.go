package api

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// SignatureChecker knows whose signatures count.
type SignatureChecker interface {
	// Check reads content to its end and returns its digest and the fingerprint of the key that
	// signed it by the image's spec.origin. Without a signature that is empty, and an error where
	// the server, or the image, wants one.
	Check(image *pb.Image, content io.Reader) (digest, signedBy string, err error)
}

// checkedContent passes on content while its signature is checked, and ends
// with an error in place of io.EOF if that is wrong: so whoever stores it
// drops it. Close it, or the check never ends.
type checkedContent struct {
	content io.Reader
	to      *io.PipeWriter
	done    chan struct{}
	// failed is closed once the check has found that the content isn't wanted.
	failed chan struct{}

	digest, signedBy string
	err              error
}

func (s *Server) checkContent(image *pb.Image, content io.Reader) *checkedContent {
	from, to := io.Pipe()
	c := &checkedContent{content: content, to: to, done: make(chan struct{}), failed: make(chan struct{})}
	go func() {
		defer close(c.done)
		if s.cfg.Signatures != nil {
			if c.digest, c.signedBy, c.err = s.cfg.Signatures.Check(image, from); c.err != nil {
				close(c.failed)
			}
		}
		_, _ = io.Copy(io.Discard, from) // ends when the writer does
	}()
	return c
}

// Read implements io.Reader.
func (c *checkedContent) Read(p []byte) (int, error) {
	select {
	case <-c.failed: // what is left needn't come
		return 0, fmt.Errorf("%w: it is not stored", c.err)
	default:
	}
	n, err := c.content.Read(p)
	if n > 0 {
		if _, err := c.to.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	_ = c.to.Close() // never fails
	<-c.done
	if c.err != nil {
		return n, fmt.Errorf("%w: it is not stored", c.err)
	}
	return n, err
}

// finish waits for the check of content that was read to where it was of use.
func (c *checkedContent) finish() error {
	_, err := io.Copy(io.Discard, c)
	return err
}

// mayBeUnsigned is an error if content that nothing is known of isn't wanted.
func (s *Server) mayBeUnsigned(image *pb.Image) error {
	if s.cfg.Signatures == nil {
		return nil
	}
	image = cloneOf(image)
	if image.GetSpec() != nil {
		image.Spec.Origin = nil
	}
	_, _, err := s.cfg.Signatures.Check(image, strings.NewReader(""))
	return err
}

// Close ends the check, whatever has come.
func (c *checkedContent) Close() {
	_ = c.to.CloseWithError(io.ErrUnexpectedEOF) // never fails
	<-c.done
}

// signature is what is put on record about content of that digest.
func (c *checkedContent) signature(digest string, s *Server) *pb.ImageSignature {
	if c.signedBy == "" || c.digest != digest {
		return nil
	}
	return &pb.ImageSignature{Digest: digest, SignedBy: c.signedBy, CheckTime: timestamppb.New(s.cfg.DB.Now())}
}
