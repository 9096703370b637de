package ipmi

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/machine"
)

// FuzzSEL has records of a log be any bytes. The library's parser may panic; the
// driver turns that into an error.
func FuzzSEL(f *testing.F) {
	f.Add([]byte{1, 0, 0x02, 0x45, 0x2f, 0x57, 0x69, 0x20, 0, 4, 0x10, 0x30, 0x6f, 2, 0xff, 0xff}) // log cleared
	f.Add([]byte{2, 0, 0xc0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9})                               // a vendor's, with a time
	f.Add([]byte{3, 0, 0xe0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9})                               // a vendor's, without
	f.Add([]byte{4, 0, 0x02, 0xff, 0xff, 0xff, 0xff, 0x20, 0, 4, 1, 0x30, 0x81, 0x59, 41, 40})     // over a threshold, ended
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &Driver{Lacking: bmc.Lacking{Driver: Name}}
		_ = d.do(context.Background(), "event log", func(context.Context) error {
			sel, err := types.ParseSEL(data)
			if err != nil {
				return err
			}
			e := entryOf(sel)
			if e.ID == "" || !utf8.ValidString(e.Message) || strings.ContainsFunc(e.Message, func(r rune) bool { return r < ' ' }) {
				t.Errorf("entry is %+v", e)
			}
			return nil
		})
	})
}

// FuzzFRU has the product area be any bytes.
func FuzzFRU(f *testing.F) {
	f.Add([]byte{1, 2, 25, 0xc4, 'A', 'c', 'm', 'e', 0xc1, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 1, 25, 0x43, 0xff, 0xff, 0xff, 0xc1})
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &Driver{Lacking: bmc.Lacking{Driver: Name}}
		_ = d.do(context.Background(), "FRU data", func(context.Context) error {
			area := &types.FRUProductInfoArea{}
			if err := area.Unpack(data); err != nil {
				return err
			}
			s := systemOf(&types.FRU{ProductInfoArea: area})
			for _, text := range []string{s.Manufacturer, s.Product, s.Serial, s.Version, s.Sku} {
				if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
					t.Errorf("text is %q", text)
				}
			}
			return nil
		})
	})
}

func FuzzGUID(f *testing.F) {
	f.Add([]byte("\x67\x45\x23\x01\xab\x89\xef\xcd\x01\x23\x45\x67\x89\xab\xcd\xef"))
	f.Add(make([]byte, 16))
	f.Add([]byte(strings.Repeat("\xff", 16)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) != 16 {
			return
		}
		u := uuidOf([16]byte(data))
		if unset := strings.Repeat("\xff", 16); string(data) == unset && u != "" {
			t.Errorf("an UUID that isn't set is %q", u)
		}
		if u == "" {
			return
		}
		if again, err := machine.ParseUUID(string(u)); err != nil || again != u {
			t.Errorf("%x is %q, %v", data, u, err)
		}
	})
}
