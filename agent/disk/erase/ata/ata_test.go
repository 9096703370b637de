package ata

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/agent/disk/erase/scsi"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCommands holds the bytes of ATA PASS-THROUGH (16), laid out by hand from
// SAT-3 §12.2.2 and ACS-3 §7.
func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		got scsi.Command
		cdb string
	}{
		//                                             op pr fl  feat count lba31 lba7 lba39 lba15 lba47 lba23 dev cmd ctl
		"identify, PIO in, one block":              {IdentifyDevice(), "85 08 0e 0000 0001 00 00 00 00 00 00 40 ec 00"},
		"set password, PIO out":                    {SetPassword("x"), "85 0a 06 0000 0001 00 00 00 00 00 00 40 f1 00"},
		"erase prepare, no data":                   {ErasePrepare(), "85 06 00 0000 0000 00 00 00 00 00 00 40 f3 00"},
		"erase unit":                               {EraseUnit("x", true, time.Hour), "85 0a 06 0000 0001 00 00 00 00 00 00 40 f4 00"},
		"crypto scramble: Cryp, failure mode":      {Sanitize(CryptoScramble), "85 07 20 0011 0010 43 70 00 79 00 72 40 b4 00"},
		"block erase: BkEr":                        {Sanitize(BlockErase), "85 07 20 0012 0010 42 72 00 45 00 6b 40 b4 00"},
		"overwrite: OW, pattern 0, one pass":       {Sanitize(Overwrite), "85 07 20 0014 0011 00 00 57 00 4f 00 40 b4 00"},
		"sanitize status":                          {SanitizeStatus(false), "85 07 20 0000 0000 00 00 00 00 00 00 40 b4 00"},
		"sanitize status, clearing a failed one":   {SanitizeStatus(true), "85 07 20 0000 0001 00 00 00 00 00 00 40 b4 00"},
		"read native max address ext":              {ReadNativeMax(), "85 07 20 0000 0000 00 00 00 00 00 00 40 27 00"},
		"device configuration identify":            {DeviceConfiguration(), "85 08 0e 00c2 0001 00 00 00 00 00 00 40 b1 00"},
		"get native max address ext (ACS-3's own)": {GetNativeMax(), "85 07 20 0000 0000 00 00 00 00 00 00 40 78 00"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(unhex(t, c.cdb), c.got.CDB); diff != "" || c.got.Timeout <= 0 {
				t.Errorf("%x\n(-want +got):\n%s", c.got.CDB, diff)
			}
		})
	}
	t.Run("the password's block", func(t *testing.T) {
		c := EraseUnit("secret", true, time.Hour)
		if len(c.Data) != 512 || !c.Out || c.Data[0] != 2 || c.Data[1] != 0 || string(c.Data[2:9]) != "secret\x00" {
			t.Errorf("% x", c.Data[:34])
		}
		if c := SetPassword(strings.Repeat("x", 40)); c.Data[33] != 'x' || c.Data[34] != 0 {
			t.Errorf("% x", c.Data[:40])
		}
	})
}

// identity has words put into IDENTIFY DEVICE.
func identity(words map[int]uint16) []byte {
	b := make([]byte, 512)
	copy(b[20:], "eSirla1 ") // "Serial 1", two characters to a word
	copy(b[54:], "oMed l1 ") // "Model 1 "
	for w, v := range words {
		binary.LittleEndian.PutUint16(b[2*w:], v)
	}
	return b
}

func TestParseIdentity(t *testing.T) {
	got, err := ParseIdentity(identity(map[int]uint16{
		59: 1<<12 | 1<<13 | 1<<15, 82: 1<<1 | 1<<10, 83: 1<<10 | 1<<11, 89: 0x8000 | 300, 90: 1, 100: 0xabcd, 101: 1, 119: 1 << 8, 128: 1 | 1<<1 | 1<<3 | 1<<5,
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := Identity{
		Serial: "Serial 1", Model: "Model 1", Sectors: 0x1abcd, HPA: true, DCO: true, AMAC: true,
		Security: Security{Supported: true, Enabled: true, Frozen: true, CanEnhance: true, Normal: 600 * time.Minute, Enhanced: 2 * time.Minute},
		Sanitize: SanitizeCapability{Supported: true, CryptoScramble: true, BlockErase: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for name, b := range map[string][]byte{"too short": make([]byte, 511), "nothing": make([]byte, 512), "a CD drive": identity(map[int]uint16{0: 1 << 15})} {
		if _, err := ParseIdentity(b); !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Sense data with the registers of a disk: descriptor and fixed format.
const (
	inProgress = "72 01 00 1d 00 00 00 0e  09 0c 01 00 40 00 00 00 00 40 00 00 40 50" // count 4000h, LBA 4000h
	completed  = "72 01 00 1d 00 00 00 0e  09 0c 01 00 80 00 00 ff 00 ff 00 00 40 50"
	failed     = "72 0b 00 00 00 00 00 0e  09 0c 01 04 00 00 00 01 00 00 00 00 40 51"
	native     = "72 01 00 1d 00 00 00 0e  09 0c 01 00 00 00 00 ff 01 ff 00 ff 40 50" // LBA 0000_0100_ffff_ff
	fixed      = "70 00 01 00 50 40 00 0a  00 ff ff 00 00 1d 00 00 00 00"
)

func TestParseSanitizeStatus(t *testing.T) {
	for sense, want := range map[string]SanitizeState{
		inProgress: {InProgress: true, Progress: 0x4000},
		completed:  {Completed: true, Progress: 0xffff},
		failed:     {Failure: "sanitize command unsuccessful"},
	} {
		got, err := ParseSanitizeStatus(unhex(t, sense))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	for name, sense := range map[string][]byte{"none": nil, "another descriptor": unhex(t, "72 05 24 00 00 00 00 00"), "a bare error": unhex(t, "70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00")} {
		if _, err := ParseSanitizeStatus(sense); !errors.Is(err, ErrNoRegisters) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseNativeMax(t *testing.T) {
	if n, err := ParseNativeMax(unhex(t, native)); err != nil || n != 0x0100ffffff+1 {
		t.Errorf("%#x, %v", n, err)
	}
	if n, err := ParseNativeMax(unhex(t, fixed)); err != nil || n != 0xffff+1 {
		t.Errorf("fixed: %#x, %v", n, err)
	}
	if _, err := ParseNativeMax(unhex(t, failed)); err == nil {
		t.Error("an aborted command has an answer")
	}
	more := unhex(t, fixed)
	more[8] = 0x20 // upper bytes of the LBA aren't zero, and aren't here
	if _, err := ParseNativeMax(more); !errors.Is(err, ErrNoRegisters) {
		t.Errorf("half an answer: %v", err)
	}
}

func TestErr(t *testing.T) {
	for sense, want := range map[string]string{failed: "the disk aborted the command", completed: "<nil>", "70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00": "illegal request: invalid command operation code (20h/00h)"} {
		err := Err(scsi.Reply{Status: 2, Sense: unhex(t, sense)})
		got := "<nil>"
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %s", sense, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{inProgress, completed, failed, native, fixed} {
		f.Add(unhex(f, s))
	}
	f.Add(identity(map[int]uint16{59: 0xf000, 128: 0x3f}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRegisters(b); err == nil && r.LBA >= 1<<48 {
			t.Errorf("LBA %#x", r.LBA)
		}
		if s, err := ParseSanitizeStatus(b); err == nil && (s.Fraction() < 0 || s.Fraction() > 1) {
			t.Errorf("%+v", s)
		}
		_, _ = ParseNativeMax(b)
		_, _ = ParseDeviceConfiguration(b)
		_ = Err(scsi.Reply{Status: 2, Sense: b})
		if id, err := ParseIdentity(b); err == nil && strings.ContainsFunc(id.Serial+id.Model+id.Firmware, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%+v", id)
		}
	})
}
