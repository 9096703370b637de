package inventory

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nvmeLog is log page 6 with what runs, how far it is, and the newest result.
func nvmeLog(operation, percent, result, segment, valid byte, lba uint64) []byte {
	b := make([]byte, 564)
	b[0], b[1] = operation, percent
	b[4], b[5], b[6] = 1<<4|result, segment, valid
	binary.LittleEndian.PutUint64(b[20:], lba)
	return b
}

// ataData is SMART READ DATA with a status and an offline capability.
func ataData(status, capability byte) []byte {
	b := make([]byte, 512)
	b[363], b[367] = status, capability
	return b
}

// scsiLog is log page 10h with one result.
func scsiLog(result byte, lba uint64) []byte {
	b := []byte{0x10, 0, 0, 20, 0, 1, 3, 0x10, 1<<5 | result, 4, 0, 9}
	b = binary.BigEndian.AppendUint64(b, lba)
	return append(b, 3, 0x11, 0, 0)
}

func TestParseSelfTest(t *testing.T) {
	for _, tt := range []struct {
		name  string
		parse func([]byte) (SelfTest, error)
		in    []byte
		want  SelfTest
	}{
		{"NVMe: running", parseNVMeSelfTest, nvmeLog(1, 42, 0xf, 0, 0, 0), SelfTest{Running: true, Percent: 42}},
		{"NVMe: passed", parseNVMeSelfTest, nvmeLog(0, 0, 0, 0, 0, 0), SelfTest{Passed: true, Percent: 100, Message: "completed without error"}},
		{"NVMe: never run", parseNVMeSelfTest, nvmeLog(0, 0, 0xf, 0, 0, 0), SelfTest{Aborted: true, Percent: 100, Message: "none was ever run"}},
		{"NVMe: aborted by a reset", parseNVMeSelfTest, nvmeLog(0, 0, 2, 0, 2, 7), SelfTest{Aborted: true, Percent: 100, Message: "aborted, code 2"}},
		{"NVMe: failed at a block", parseNVMeSelfTest, nvmeLog(0, 0, 7, 3, 2, 0x1234567890), SelfTest{Percent: 100, Message: "failed, code 7, segment 3", HasLBA: true, LBA: 0x1234567890}},
		{"ATA: running, 40 % left", parseATASelfTest, ataData(0xf4, 0x10), SelfTest{Running: true, Percent: 60}},
		{"ATA: passed", parseATASelfTest, ataData(0, 0x10), SelfTest{Passed: true, Percent: 100, Message: "completed without error"}},
		{"ATA: read failure", parseATASelfTest, ataData(0x79, 0x10), SelfTest{Percent: 10, Message: "read failure"}},
		{"ATA: interrupted", parseATASelfTest, ataData(0x25, 0x10), SelfTest{Aborted: true, Percent: 50, Message: "interrupted by a reset"}},
		{"SCSI: running", parseSCSISelfTest, scsiLog(0xf, 0), SelfTest{Running: true}},
		{"SCSI: passed", parseSCSISelfTest, scsiLog(0, 1<<64-1), SelfTest{Passed: true, Percent: 100, Message: "completed without error"}},
		{"SCSI: failed at a block", parseSCSISelfTest, scsiLog(7, 99), SelfTest{Percent: 100, Message: "failed, code 7, number 4", HasLBA: true, LBA: 99}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("self-test (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := parseATASelfTest(ataData(0, 0)); !errors.Is(err, ErrNoSelfTest) {
		t.Errorf("a disk without one: %v", err)
	}
}

func FuzzParseSelfTest(f *testing.F) {
	f.Add(nvmeLog(0, 0, 7, 3, 2, 1)) // failed
	f.Add(ataData(0x79, 0x10))       // read failure
	f.Add(scsiLog(7, 99))            // failed
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (SelfTest, error){parseNVMeSelfTest, parseATASelfTest, parseSCSISelfTest} {
			if s, err := parse(b); err == nil && s.Passed && (s.Running || s.Aborted || s.HasLBA) {
				t.Errorf("%+v contradicts itself", s)
			}
		}
	})
}
