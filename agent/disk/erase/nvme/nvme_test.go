package nvme

import (
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// page is a page of zeros with bytes put at offsets.
func page(size int, put map[int][]byte) []byte {
	b := make([]byte, size)
	for off, v := range put {
		copy(b[off:], v)
	}
	return b
}

func TestCommands(t *testing.T) {
	ns := Namespace{LBAFormat: 0x13, ExtendedLBA: true, Protection: 0xa}
	for name, c := range map[string]struct {
		got Command
		op  uint8
		ns  uint32
		dw  uint32
	}{
		"crypto erase, AUSE":                   {Sanitize(CryptoErase), 0x84, 0, 0x0c},
		"block erase, AUSE":                    {Sanitize(BlockErase), 0x84, 0, 0x0a},
		"overwrite, AUSE, one pass":            {Sanitize(Overwrite), 0x84, 0, 0x1b},
		"exit failure mode":                    {Sanitize(ExitFailure), 0x84, 0, 0x01},
		"format as it is, user data":           {Format(ns, 7, EraseUserData, time.Hour), 0x80, 7, 1<<12 | 1<<9 | 0xa<<5 | 1<<4 | 3},
		"format, crypto":                       {Format(Namespace{LBAFormat: 1}, AllNamespaces, EraseCrypto, time.Hour), 0x80, 0xffffffff, 2<<9 | 1},
		"512 bytes of log 81h (127+1 dwords)":  {SanitizeLog(), 0x02, 0xffffffff, 0x7f<<16 | 0x81},
		"identify the controller":              {Identify(CNSController, 0), 0x06, 0, 1},
		"identify a namespace":                 {Identify(CNSNamespace, 3), 0x06, 3, 0},
		"allocated namespaces, from the first": {Identify(CNSAllocated, 0), 0x06, 0, 0x10},
	} {
		t.Run(name, func(t *testing.T) {
			if g := c.got; g.Opcode != c.op || g.NSID != c.ns || g.CDW10 != c.dw || g.Timeout <= 0 {
				t.Errorf("opcode %#x, namespace %#x, dword 10 %#x", g.Opcode, g.NSID, g.CDW10)
			}
		})
	}
}

func TestParseController(t *testing.T) {
	got, err := ParseController(page(4096, map[int][]byte{
		4: []byte("S1Z9NX0K            "), 24: []byte("DISK MODEL 3.84T                        "), 64: []byte("GDC5602Q"),
		256: {0x0a}, 328: {0x03, 0, 0, 0xa0}, 524: {0x06}, 768: []byte("nqn.2014-08.org.example:disk"),
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := Controller{Serial: "S1Z9NX0K", Model: "DISK MODEL 3.84T", Firmware: "GDC5602Q", Subsystem: "nqn.2014-08.org.example:disk",
		CanFormat: true, CanManage: true, ErasesAll: true, CanCrypto: true, Sanitize: 0xa0000003}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !got.CanSanitize(CryptoErase) || !got.CanSanitize(BlockErase) || got.CanSanitize(Overwrite) || got.CanSanitize(ExitFailure) {
		t.Error("sanitize capabilities are read wrong")
	}
}

func TestParseNamespace(t *testing.T) {
	// Format 17, whose number is in two parts of FLBAS: 4096 bytes with 8 of metadata.
	got, err := ParseNamespace(page(4096, map[int][]byte{0: {0, 0, 0, 0, 1}, 26: {0x31}, 29: {0x01}, 99: {1}, 128 + 4*17: {8, 0, 12, 0}}))
	if err != nil {
		t.Fatal(err)
	}
	want := Namespace{Blocks: 1 << 32, LBAFormat: 17, ExtendedLBA: true, Protection: 1, BlockSize: 4096, MetadataSize: 8, WriteProtected: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseSanitizeStatus(t *testing.T) {
	for name, c := range map[string]struct {
		page []byte
		want SanitizeStatus
	}{
		"in progress, a quarter": {page(512, map[int][]byte{0: {0, 0x40}, 2: {0x02}, 4: {0x0a}, 8: {0xff, 0xff, 0xff, 0xff}, 12: {60}, 16: {2}}),
			SanitizeStatus{Progress: 0x4000, State: InProgress, Command: 0x0a, Overwrite: -1, BlockErase: time.Minute, CryptoErase: 2 * time.Second}},
		"done, nothing written since": {page(512, map[int][]byte{0: {0xff, 0xff}, 2: {0x01, 0x01}, 4: {0x0c}}),
			SanitizeStatus{Progress: 0xffff, State: Sanitized, Erased: true, Command: 0x0c}},
		"failed in pass 3": {page(512, map[int][]byte{0: {0xff, 0xff}, 2: {3<<3 | 3}, 4: {0x1b}}),
			SanitizeStatus{Progress: 0xffff, State: Failed, Passes: 3, Command: 0x1b}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseSanitizeStatus(c.page)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Raw = c.page[:32]
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	s, err := ParseSanitizeStatus(page(512, map[int][]byte{0: {0, 0x40}, 2: {0x02}, 4: {0x0a}}))
	if err != nil || s.Fraction() != 0.25 || s.Action() != BlockErase || s.State.Done() || s.State.String() != "in progress" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestStatus(t *testing.T) {
	for status, want := range map[Status]string{0x1d: "NVMe status 0x01d: sanitize in progress", 0x401d: "NVMe status 0x01d: sanitize in progress", 0x1ff: "NVMe status 0x1ff"} {
		if got := status.Error(); got != want {
			t.Errorf("%#x: %s", uint16(status), got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(page(4096, map[int][]byte{4: []byte("SERIAL"), 26: {0x71}, 128: {0, 0, 9, 0}})) // a serial number, the highest LBA format
	f.Add(page(512, map[int][]byte{0: {0xff, 0xff, 0x01, 0x01}}))                         // a sanitize status
	f.Add(page(4096, map[int][]byte{0: {1, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0}}))            // a list with a number twice
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := ParseController(b); err == nil && strings.ContainsFunc(c.Serial+c.Model+c.Firmware+c.Subsystem, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%+v", c)
		}
		if n, err := ParseNamespace(b); err == nil {
			// What is read is what Format puts back.
			dw := Format(n, 1, EraseUserData, time.Second).CDW10
			if uint8(dw&0xf|dw>>12&3<<4) != n.LBAFormat || dw>>4&1 == 1 != n.ExtendedLBA || uint8(dw>>5&0xf) != n.Protection {
				t.Errorf("%+v gives %#x", n, dw)
			}
		}
		if ids, err := ParseNamespaceList(b); err == nil {
			for i, id := range ids {
				if id == 0 || i > 0 && ids[i-1] >= id {
					t.Errorf("%v", ids)
				}
			}
		}
		if s, err := ParseSanitizeStatus(b); err == nil {
			if f := s.Fraction(); f < 0 || f > 1 || len(s.Raw) != 32 || binary.LittleEndian.Uint16(s.Raw) != s.Progress {
				t.Errorf("%+v", s)
			}
		}
	})
}
