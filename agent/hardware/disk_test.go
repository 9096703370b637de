package hardware

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bedplate/bedplate/agent/inventory"
	"github.com/bedplate/bedplate/agent/step"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// fakeDevices is one disk's firmware.
type fakeDevices struct {
	health    []*pb.SMART // one for each time that it is asked
	noTest    bool
	test      []inventory.SelfTest // the same
	asked     int
	askedTest int
	stopped   bool
}

func (f *fakeDevices) Health(context.Context, string, string) (*pb.SMART, error) {
	h := f.health[min(f.asked, len(f.health)-1)]
	f.asked++
	return h, nil
}

func (f *fakeDevices) StartSelfTest(context.Context, string, string) error {
	if f.noTest {
		return inventory.ErrNoSelfTest
	}
	return nil
}

func (f *fakeDevices) SelfTest(context.Context, string, string) (inventory.SelfTest, error) {
	s := f.test[min(f.askedTest, len(f.test)-1)]
	f.askedTest++
	return s, nil
}

func (f *fakeDevices) StopSelfTest(context.Context, string, string) error {
	f.stopped = true
	return nil
}

// newDisk makes a file that stands for a disk.
func newDisk(t *testing.T, size int64, content map[int64]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for off, s := range content {
		if _, err := f.WriteAt([]byte(s), off); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func testDisk(t *testing.T, path string, devices Devices, with map[string]any) (map[string]map[string]any, *recorder) {
	t.Helper()
	s := newService(t, Config{Devices: devices, Root: t.TempDir(), Disks: func(context.Context) ([]*pb.Disk, error) {
		return []*pb.Disk{{Name: "sda", Path: path, Serial: "S1", Bus: "sata"}, {Name: "sdb", Path: "/dev/usb-stick", Removable: true}}, nil
	}})
	if with == nil {
		with = map[string]any{}
	}
	with["duration"] = "200ms"
	rep := &recorder{}
	r, err := s.disk(t.Context(), step.Request{With: with}, rep)
	if err != nil {
		t.Fatal(err)
	}
	return rows(t, r), rep
}

func TestService_Disk(t *testing.T) {
	const size = 32 << 20
	t.Run("an empty disk is written to and left as it was", func(t *testing.T) {
		path := newDisk(t, size, nil)
		got, rep := testDisk(t, path, nil, nil)
		for _, measure := range []string{"sequential_read", "random_read", "read_latency_p50", "read_latency_max", "sequential_write", "write_test"} {
			if v, _ := got["S1 "+measure]["value"].(float64); v <= 0 {
				t.Errorf("%s: %v", measure, got["S1 "+measure])
			}
		}
		for _, measure := range []string{"read_errors", "write_faults"} {
			if row := got["S1 "+measure]; row["value"] != float64(0) || row["ok"] != true {
				t.Errorf("%s: %v", measure, row)
			}
		}
		if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, make([]byte, size)) {
			t.Errorf("the disk is not what it was: %v; log %q", err, rep.lines)
		}
	})
	for name, content := range map[string]map[int64]string{
		"an XFS file system":                    {0: "XFSB"},
		"a partition table":                     {510: "\x55\xaa", 446 + 4: "\x83", 446 + 8: "\x00\x08\x00\x00\x00\x10\x00\x00"},
		"one byte where it would be written to": {size/4 + 1234567: "x"},
		"a byte at its end":                     {size - 1: "x"},
		"LUKS":                                  {0: "LUKS\xba\xbe"},
	} {
		t.Run("a disk with "+name+" is not written to", func(t *testing.T) {
			path := newDisk(t, size, content)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := testDisk(t, path, nil, nil)
			if row := got["S1 write_test"]; row["value"] != float64(0) || row["ok"] != true || !strings.Contains(row["message"].(string), "not empty") {
				t.Errorf("write_test: %v", row)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
				t.Errorf("the disk was changed (%v)", err)
			}
		})
	}
	t.Run("write never leaves even an empty disk alone", func(t *testing.T) {
		got, _ := testDisk(t, newDisk(t, size, nil), nil, map[string]any{"write": "never"})
		if got["S1 write_test"] != nil || got["S1 sequential_write"] != nil {
			t.Errorf("it was written to: %v", got)
		}
	})
	t.Run("the surface is read to its last byte", func(t *testing.T) {
		got, _ := testDisk(t, newDisk(t, size+5*512, nil), nil, map[string]any{"surface": true, "write": "never"})
		if v := got["S1 surface_read"]["value"]; v != float64(size+5*512) {
			t.Errorf("%v bytes were read of %d", v, size+5*512)
		}
	})
	t.Run("removable disks are left out, unless they are all there is", func(t *testing.T) {
		s := newService(t, Config{Root: t.TempDir(), Disks: func(context.Context) ([]*pb.Disk, error) {
			return []*pb.Disk{{Name: "sdb", Removable: true}}, nil
		}})
		if _, err := s.disk(t.Context(), step.Request{}, &recorder{}); err == nil {
			t.Error("a machine without a disk has passed")
		}
	})
}

func TestService_Disk_Health(t *testing.T) {
	good := &pb.SMART{Supported: true, Healthy: true, TemperatureCelsius: 35, PowerOnHours: 2}
	for _, tt := range []struct {
		name    string
		devices *fakeDevices
		measure string
		value   float64
		ok      bool
		message string
	}{
		{"a disk that says it is failing", &fakeDevices{health: []*pb.SMART{{Supported: true}}, noTest: true}, "smart_healthy", 0, false, "failing"},
		{"errors that came up during the test", &fakeDevices{health: []*pb.SMART{good, {Healthy: true, MediaErrors: 3}}, noTest: true}, "new_media_errors", 3, false, "while it was tested"},
		{"hours as seconds", &fakeDevices{health: []*pb.SMART{good}, noTest: true}, "power_on", 7200, true, ""},
		{"a self-test that passes", &fakeDevices{health: []*pb.SMART{good}, test: []inventory.SelfTest{{Passed: true, Message: "completed"}}}, "self_test", 1, true, "completed"},
		{"a self-test that fails", &fakeDevices{health: []*pb.SMART{good}, test: []inventory.SelfTest{{Message: "read failure", HasLBA: true, LBA: 77}}}, "self_test", 0, false, "first bad block 77"},
		{"a self-test that was aborted says nothing", &fakeDevices{health: []*pb.SMART{good}, test: []inventory.SelfTest{{Aborted: true}}}, "self_test", 0, true, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, _ := testDisk(t, newDisk(t, 32<<20, nil), tt.devices, map[string]any{"write": "never"})
			row := got["S1 "+tt.measure]
			if row["value"] != tt.value || row["ok"] != tt.ok || !strings.Contains(row["message"].(string), tt.message) {
				t.Errorf("%s: %v", tt.measure, row)
			}
		})
	}
}

func TestDiskTest_SelfTestStops(t *testing.T) {
	d := &fakeDevices{test: []inventory.SelfTest{{Running: true, Percent: 10}}}
	s := newService(t, Config{Devices: d})
	ctx, cancel := contextWithTimeout(t, 50*time.Millisecond)
	defer cancel()
	x := diskTest{s: s, disk: &pb.Disk{Name: "sda", Bus: "sata"}, report: s.newReport("disk", 1), rep: &recorder{}}
	x.runSelfTest(ctx)
	if !d.stopped {
		t.Error("a self-test that nobody waits for any more goes on")
	}
}

func TestReader_BadBlocks(t *testing.T) {
	// A file that ends early reads like a disk that has no more to give; one
	// that is closed refuses everything.
	path := newDisk(t, 4<<20, nil)
	r, err := openReader(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if r.read(make([]byte, chunk), 1<<20) {
		t.Fatal("reading from a closed file went well")
	}
	s := newService(t, Config{})
	x := diskTest{s: s, disk: &pb.Disk{Name: "sda"}, report: s.newReport("disk", 1), rep: &recorder{}}
	x.reportBad(r)
	row := x.report.rows[0]
	if !row.bad || len(r.bad) != maxBad || r.bad[0] != 1<<20/512 || !strings.Contains(row.message, "by LBA: 2048, 2049") {
		t.Errorf("row %+v, bad blocks %v", row, r.bad)
	}
	if !errors.Is(r.why, os.ErrClosed) {
		t.Errorf("the reason is lost: %v", r.why)
	}
}
