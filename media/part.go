package media

import (
	"fmt"
	"strings"

	"github.com/bedplate/bedplate/images/agentos"
	"github.com/bedplate/bedplate/images/iso"
	"github.com/bedplate/bedplate/machine/medium"
)

// part makes the bytes that are the machine's own. The same medium always has
// the same.
func (s *Server) part(h held) (iso.Part, error) {
	c := h.Config
	var err error
	if c.Token, err = s.cfg.Tokens.Mint(h.token()); err != nil {
		return iso.Part{}, err
	}
	data, err := c.Marshal()
	if err != nil {
		return iso.Part{}, err
	}
	archive, err := agentos.Overlay(strings.TrimPrefix(medium.Path, "/"), data)
	if err != nil {
		return iso.Part{}, fmt.Errorf("making the second initramfs: %w", err)
	}
	return iso.Part{Script: h.Script, Archive: archive}, nil
}
