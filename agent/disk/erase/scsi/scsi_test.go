package scsi

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCommands(t *testing.T) {
	for name, c := range map[string]struct {
		got       Command
		cdb, data string
	}{
		"block erase, IMMED, AUSE":             {Sanitize(BlockErase), "48 a2 00 00 00 00 00 00 00 00", ""},
		"crypto erase":                         {Sanitize(CryptoErase), "48 a3 00 00 00 00 00 00 00 00", ""},
		"overwrite, once, with four zeros":     {Sanitize(Overwrite), "48 a1 00 00 00 00 00 00 08 00", "01 00 00 04 00 00 00 00"},
		"exit failure mode":                    {Sanitize(ExitFailure), "48 1f 00 00 00 00 00 00 00 00", ""},
		"request sense":                        {RequestSense(), "03 00 00 00 fc 00", strings.Repeat("00", 252)},
		"is there SANITIZE with crypto erase?": {Supports(CryptoErase), "a3 0c 02 48 00 03 00 00 00 40 00 00", strings.Repeat("00", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(unhex(t, c.cdb), c.got.CDB); diff != "" {
				t.Errorf("CDB (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(unhex(t, c.data), append([]byte{}, c.got.Data...)); diff != "" {
				t.Errorf("data (-want +got):\n%s", diff)
			}
		})
	}
}

// Sense data of a disk that sanitizes itself, a quarter done.
const (
	fixed       = "70 00 02 00 00 00 00 0a 00 00 00 00 04 1b 00 80 40 00"
	descriptor  = "72 02 04 1b 00 00 00 08  02 06 00 00 80 40 00 00"
	descriptor2 = "72 02 04 1b 00 00 00 10  00 06 00 00 00 00 00 00  0a 06 02 04 1b 00 40 00"
	bad         = "72 03 31 03 00 00 00 00"
)

func TestParseSense(t *testing.T) {
	sanitizing := Sense{Key: NotReady, ASC: 0x04, ASCQ: 0x1b, Progress: 0x4000}
	for sense, want := range map[string]Sense{
		fixed: sanitizing, descriptor: sanitizing, descriptor2: sanitizing,
		bad: {Key: MediumError, ASC: 0x31, ASCQ: 0x03, Progress: -1},
		"70 00 00 00 00 00 00 0a 00 00 00 00 00 00 00 00 00 00": {Progress: -1},
		"70 00 05 00 00 00 00 00":                               {Key: IllegalRequest, Progress: -1},
	} {
		got, ok := ParseSense(unhex(t, sense))
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%s (-want +got):\n%s", sense, diff)
		}
	}
	if !sanitizing.Sanitizing() || sanitizing.Fraction() != 0.25 || sanitizing.Error() != "not ready: sanitize in progress (04h/1bh)" {
		t.Errorf("%v, %v", sanitizing, sanitizing.Fraction())
	}
	for _, s := range []string{"", "72 02 04", "00 00 00 00 00 00 00 00"} {
		if _, ok := ParseSense(unhex(t, s)); ok {
			t.Errorf("%q is sense data", s)
		}
	}
}

func TestReply_Err(t *testing.T) {
	for want, r := range map[string]Reply{
		"medium error: sanitize command failed (31h/03h)": {Status: 2, Sense: unhex(t, bad)},
		"SCSI status 18h": {Status: 0x18},
	} {
		if err := r.Err(); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for _, r := range []Reply{{}, {Status: 2, Sense: unhex(t, "72 01 00 1d 00 00 00 00")}} {
		if err := r.Err(); err != nil {
			t.Error(err)
		}
	}
}

func TestParseSupports(t *testing.T) {
	for sense, want := range map[string]bool{"00 03 00 0a": true, "00 05 00 0a": true, "00 01 00 00": false, "00 00 00 00": false, "00 03": false} {
		if got := ParseSupports(unhex(t, sense)); got != want {
			t.Errorf("%s: %v", sense, got)
		}
	}
}

func FuzzParseSense(f *testing.F) {
	for _, s := range []string{fixed, descriptor, descriptor2, bad} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := ParseSense(b)
		if ok && (s.Progress < -1 || s.Progress > 65535 || s.Fraction() < 0 || s.Fraction() >= 1 || s.Key > 15) {
			t.Errorf("%+v", s)
		}
		_ = Reply{Status: 2, Sense: b}.Err()
		ParseSupports(b)
	})
}
