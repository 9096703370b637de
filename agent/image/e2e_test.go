package image

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestE2E_BlockDevice writes to real block devices, of both block sizes.
func TestE2E_BlockDevice(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1, as root, to work on loop devices")
	}
	for _, blockSize := range []string{"512", "4096"} {
		t.Run(blockSize, func(t *testing.T) {
			img := gptImage(t, map[string]int{"512": 512, "4096": 4096}[blockSize], 20*mib)
			packed := compress(t, "zstd", img)
			back := blank(t, 24*mib)
			b, err := exec.Command("losetup", "-f", "--show", "-b", blockSize, back).Output()
			if err != nil {
				t.Fatalf("losetup: %v", err)
			}
			dev := strings.TrimSpace(string(b))
			defer func() {
				if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
					t.Errorf("losetup -d: %v\n%s", err, out)
				}
			}()
			for _, with := range []map[string]any{{"digest": digest(packed), "verify": true}, {"grow": true}} {
				w := testWrite{with: with, buffer: bufferSize}
				out, err := w.run(t, t.Context(), &file{data: packed, cuts: []int{3 * mib}}, dev)
				if err != nil {
					t.Fatal(err)
				}
				got, err := os.ReadFile(dev)
				if err != nil || !bytes.Equal(got[mib:19*mib], img[mib:19*mib]) {
					t.Errorf("the disk differs: %v", err)
				}
				if out["skipped"].(int64) == 0 {
					t.Error("the loop device can clear ranges, but nothing was skipped")
				}
			}
			if sgdisk, err := exec.LookPath("sgdisk"); err == nil && blockSize == "512" {
				out, err := exec.Command(sgdisk, "-v", dev).CombinedOutput()
				if err != nil || !strings.Contains(string(out), "No problems found") {
					t.Errorf("sgdisk: %v\n%s", err, out)
				}
			}
			w := testWrite{with: map[string]any{"digest": digest(nil)}}
			if _, err := w.run(t, t.Context(), &file{data: packed}, dev); err == nil {
				t.Error("a wrong digest is no failure")
			}
			got, err := os.ReadFile(filepath.Clean(dev))
			if err != nil || !allZero(got[:mib]) || !allZero(got[23*mib:]) {
				t.Errorf("the disk isn't unbootable: %v", err)
			}
		})
	}
}
