package tftp

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestServer_Clients fetches a file with other people's clients.
func TestServer_Clients(t *testing.T) {
	b := start(t, func(c *Config) { c.Timeout = time.Second })
	port := strconv.Itoa(int(b.Addr().Port()))
	url := "tftp://127.0.0.1:" + port
	for _, test := range []struct {
		name string
		args func(out string) []string
	}{
		{"atftp", func(out string) []string {
			return []string{"atftp", "--get", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}
		}},
		{"atftp with blksize, tsize, timeout", func(out string) []string {
			return []string{"atftp", "--option", "blksize 1468", "--option", "tsize 0", "--option", "timeout 2", "--get", "-r", "/undionly.kpxe", "-l", out, "127.0.0.1", port}
		}},
		{"atftp with windowsize", func(out string) []string {
			return []string{"atftp", "--option", "windowsize 4", "--option", "blksize 1024", "--get", "-r", "undionly.kpxe", "-l", out, "127.0.0.1", port}
		}},
		{"tftp-hpa", func(out string) []string {
			return []string{"tftp", "-m", "binary", "127.0.0.1", port, "-c", "get", "undionly.kpxe", out}
		}},
		{"curl", func(out string) []string {
			return []string{"curl", "-sS", "-o", out, url + "/undionly.kpxe"}
		}},
		{"curl with a block size and doubled slashes", func(out string) []string {
			return []string{"curl", "-sS", "--tftp-blksize", "1400", "-o", out, url + "//undionly.kpxe"}
		}},
		{"curl without options", func(out string) []string {
			return []string{"curl", "-sS", "--tftp-no-options", "-o", out, url + "/undionly.kpxe"}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			args := test.args(out)
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("SKIPPED: %s is not installed", args[0])
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			said, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatalf("%v (%s)", err, said)
			}
			if !bytes.Equal(got, b.files.files["undionly.kpxe"]) {
				t.Errorf("got %d bytes that differ: %s", len(got), said)
			}
		})
	}
}
