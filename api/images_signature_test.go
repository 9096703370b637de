package api

import (
	"errors"
	"io"
	"strings"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// fakeSignatures takes content whose text is signed.
type fakeSignatures struct {
	// early refuses before it has read anything.
	early bool
}

var errFake = errors.New("unsigned")

func (f fakeSignatures) Check(_ *pb.Image, content io.Reader) (string, string, error) {
	if f.early {
		return "", "", errFake
	}
	text, err := io.ReadAll(content)
	if err != nil {
		return "", "", err
	}
	if !strings.HasPrefix(string(text), "signed") {
		return "", "", errFake
	}
	return "sha256:1", "KEY", nil
}

func TestCheckContent(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name, text string
		checker    SignatureChecker
		want       error
		signed     bool
	}{
		{"signed content is passed on", "signed disk", fakeSignatures{}, nil, true},
		{"unsigned content ends in an error in place of its end", "disk", fakeSignatures{}, errFake, false},
		{"what is refused at once", "disk", fakeSignatures{early: true}, errFake, false},
		{"nobody checks", "disk", nil, nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r.api.cfg.Signatures = tc.checker
			c := r.api.checkContent(&pb.Image{}, strings.NewReader(tc.text))
			defer c.Close()
			got, err := io.ReadAll(c)
			if !errors.Is(err, tc.want) || tc.want == nil && string(got) != tc.text {
				t.Errorf("%q came, error %v; want %v", got, err, tc.want)
			}
			if sig := c.signature("sha256:1", r.api); (sig.GetSignedBy() == "KEY") != tc.signed {
				t.Errorf("on record is %v", sig)
			}
			if sig := c.signature("sha256:2", r.api); sig != nil {
				t.Errorf("of other content is on record: %v", sig)
			}
		})
	}
	t.Run("an upload that stops ends the check", func(t *testing.T) {
		r.api.cfg.Signatures = fakeSignatures{}
		r.api.checkContent(&pb.Image{}, strings.NewReader("signed")).Close()
	})
}
