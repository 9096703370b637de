package wipe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/bedplate/bedplate/agent/step"
)

// fake answers the three commands that clearing takes, from their bytes
// (Part 3 §24.6 and §30.2).
type fake struct {
	// lockout and platform are what TPM2_Clear by that hierarchy is answered with.
	lockout, platform uint32
	// permanent is TPMA_PERMANENT, handles the persistent objects.
	permanent uint32
	handles   []uint32
	closed    int
	fails     error
}

func (f *fake) Close() error { f.closed++; return nil }

func (f *fake) Send(b []byte) ([]byte, error) {
	if f.fails != nil {
		return nil, f.fails
	}
	be := binary.BigEndian
	switch code := be.Uint32(b[6:]); code {
	case 0x126: // TPM2_Clear
		rc := map[uint32]uint32{0x4000000a: f.lockout, 0x4000000c: f.platform}[be.Uint32(b[10:])]
		if rc != 0 {
			return answer(0x8001, rc, nil), nil
		}
		return answer(0x8002, 0, []byte{0, 0, 0, 0, 0, 0, 1, 0, 0}), nil // no parameters; an empty nonce, continueSession, an empty HMAC
	case 0x17a: // TPM2_GetCapability
		var data []byte
		if be.Uint32(b[10:]) == 6 { // properties
			data = be.AppendUint32([]byte{0, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 2, 0}, f.permanent)
		} else {
			data = be.AppendUint32([]byte{0, 0, 0, 0, 1}, uint32(len(f.handles)))
			for _, h := range f.handles {
				data = be.AppendUint32(data, h)
			}
		}
		return answer(0x8001, 0, data), nil
	default:
		return nil, fmt.Errorf("command %#x", code)
	}
}

func answer(tag uint16, rc uint32, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body)))
	return append(binary.BigEndian.AppendUint32(b, rc), body...)
}

type log struct{ lines []string }

func (l *log) Log(_, line string)                  { l.lines = append(l.lines, line) }
func (*log) Progress(int64, int64, string, string) {}

// sysfs makes a tree with files below class/tpm/tpm0.
func sysfs(t testing.TB, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, "class/tpm/tpm0", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestClear(t *testing.T) {
	const (
		authFail = 0x98e // TPM_RC_AUTH_FAIL, session 1
		disabled = 0x120 // TPM_RC_DISABLED
		ppi      = "0 4: User not required\n5 4: User not required\n14 3: User required\n"
	)
	v2 := map[string]string{"tpm_version_major": "2\n"}
	asking := map[string]string{"tpm_version_major": "2\n", "ppi/tcg_operations": ppi, "ppi/request": ""}
	for _, c := range []struct {
		name    string
		sys     map[string]string
		tpm     fake
		want    map[string]any
		err     string
		request string
	}{
		{"no TPM", nil, fake{}, map[string]any{"present": false, "version": int64(0), "method": "none", "cleared": false, "pending": false}, "", ""},
		{"by the lockout hierarchy", v2, fake{}, map[string]any{"present": true, "version": int64(2), "method": "lockout", "cleared": true, "pending": false}, "", ""},
		{"by the platform hierarchy, when there is a lockout password", v2, fake{lockout: authFail}, map[string]any{"present": true, "version": int64(2), "method": "platform", "cleared": true, "pending": false}, "", ""},
		{"the platform's own objects may stay", v2, fake{handles: []uint32{0x81800001}}, map[string]any{"present": true, "version": int64(2), "method": "lockout", "cleared": true, "pending": false}, "", ""},
		{"by firmware", asking, fake{lockout: authFail, platform: authFail}, map[string]any{"present": true, "version": int64(2), "method": "ppi", "cleared": false, "pending": true}, "", "5"},
		{"a firmware that wants a person", map[string]string{"tpm_version_major": "2", "ppi/tcg_operations": "5 3: User required\n"}, fake{lockout: authFail, platform: authFail},
			map[string]any{"present": true, "version": int64(2), "method": "none", "cleared": false, "pending": false}, "without a person there (3: User required)", ""},
		{"no way to ask the firmware", v2, fake{lockout: disabled, platform: authFail}, map[string]any{"present": true, "version": int64(2), "method": "none", "cleared": false, "pending": false}, "no Physical Presence Interface", ""},
		{"a TPM that lies", v2, fake{permanent: 1}, map[string]any{"present": true, "version": int64(2), "method": "lockout", "cleared": false, "pending": false}, "still has passwords (0x1)", ""},
		{"a TPM that keeps an object", v2, fake{handles: []uint32{0x81000001}}, map[string]any{"present": true, "version": int64(2), "method": "lockout", "cleared": false, "pending": false}, "still has object 0x81000001", ""},
		{"a TPM 1.2 without an owner", map[string]string{"tpm_version_major": "1", "device/owned": "0"}, fake{}, map[string]any{"present": true, "version": int64(1), "method": "none", "cleared": true, "pending": false}, "", ""},
		{"a TPM 1.2 with one", map[string]string{"tpm_version_major": "1", "device/owned": "1", "ppi/tcg_operations": ppi, "ppi/request": ""}, fake{}, map[string]any{"present": true, "version": int64(1), "method": "ppi", "cleared": false, "pending": true}, "", "5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root, l := sysfs(t, c.sys), &log{}
			s := New(Config{Sys: root, Open: func() (transport.TPMCloser, error) { return &c.tpm, nil }})
			res, err := s.Steps()["tpm.clear"].Execute(t.Context(), step.Request{}, l)
			if diff := cmp.Diff(c.want, res.Outputs); diff != "" {
				t.Errorf("outputs (-want +got):\n%s", diff)
			}
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("error = %v, want %q", err, c.err)
			}
			if b, _ := os.ReadFile(filepath.Join(root, "class/tpm/tpm0/ppi/request")); string(b) != c.request {
				t.Errorf("request = %q", b)
			}
			if err == nil && len(l.lines) == 0 {
				t.Error("nothing is said")
			}
		})
	}
	t.Run("a TPM that doesn't answer", func(t *testing.T) {
		s := New(Config{Sys: sysfs(t, v2), Open: func() (transport.TPMCloser, error) { return &fake{fails: errors.New("input/output error")}, nil }})
		if _, err := s.Steps()["tpm.clear"].Execute(t.Context(), step.Request{}, &log{}); err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("error = %v", err)
		}
	})
}

// TestE2E_Clear clears a TPM that nobody here has written.
func TestE2E_Clear(t *testing.T) {
	if os.Getenv("BEDPLATE_E2E") != "1" {
		t.Skip("SKIPPED: set BEDPLATE_E2E=1 to clear swtpm's TPM")
	}
	dir := t.TempDir()
	if out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--overwrite").CombinedOutput(); err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	socket := filepath.Join(dir, "socket")
	cmd := exec.CommandContext(t.Context(), "swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "startup-clear")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	open := func() (transport.TPMCloser, error) { return linuxudstpm.Open(socket) }
	var chip transport.TPMCloser
	for deadline := time.Now().Add(10 * time.Second); ; {
		var err error
		if chip, err = open(); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	own := func(h tpm2.TPMHandle, old, password string) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.AuthHandle{Handle: h, Auth: tpm2.PasswordAuth([]byte(old))}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte(password)}}.Execute(chip)
		return err
	}
	// The first command connects: the socket's file is there before swtpm listens.
	err := own(tpm2.TPMRHOwner, "", "theirs")
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
		err = own(tpm2.TPMRHOwner, "", "theirs")
	}
	if err != nil {
		t.Fatal(err)
	}
	one := New(Config{Sys: sysfs(t, map[string]string{"tpm_version_major": "2"}), Open: func() (transport.TPMCloser, error) { return keep{chip}, nil }})
	clear := func() (map[string]any, error) {
		res, err := one.Steps()["tpm.clear"].Execute(t.Context(), step.Request{}, &log{})
		return res.Outputs, err
	}
	if out, err := clear(); err != nil || out["method"] != "lockout" || out["cleared"] != true {
		t.Fatalf("%v, %v", out, err)
	}
	if err := own(tpm2.TPMRHOwner, "", ""); err != nil {
		t.Errorf("the owner's password is still there: %v", err)
	}
	t.Run("with a lockout password the platform hierarchy does it, which swtpm leaves open", func(t *testing.T) {
		if err := own(tpm2.TPMRHLockout, "", "theirs"); err != nil {
			t.Fatal(err)
		}
		if out, err := clear(); err != nil || out["method"] != "platform" {
			t.Fatalf("%v, %v", out, err)
		}
	})
	t.Run("with both closed it fails and says so", func(t *testing.T) {
		if err := errors.Join(own(tpm2.TPMRHLockout, "", "theirs"), own(tpm2.TPMRHPlatform, "", "firmware's")); err != nil {
			t.Fatal(err)
		}
		if out, err := clear(); err == nil || !strings.Contains(err.Error(), "Physical Presence") || out["cleared"] != false {
			t.Errorf("%v, %v", out, err)
		}
	})
}

// keep is a TPM that stays open.
type keep struct{ transport.TPM }

func (keep) Close() error { return nil }
