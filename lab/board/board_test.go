package board_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bedplate/bedplate/lab"
	"github.com/bedplate/bedplate/lab/board"
)

// open opens a board over a folder, with a machine of its own.
func open(t *testing.T, dir string) (*board.Board, *lab.Simulated) {
	t.Helper()
	m := lab.NewSimulated(board.Hardware{Name: "m1", UEFI: true, SecureBoot: true, BIOSVersion: "1.0.0"}, 0, 0, time.Now)
	b, err := board.New(board.Config{Machine: m, Dir: dir, Username: "admin", Password: "secret", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	m.Attach(b)
	t.Cleanup(func() { b.Close(); m.Close() })
	return b, m
}

func TestBoard_Remembers(t *testing.T) {
	dir := t.TempDir()
	b, _ := open(t, dir)
	if _, err := b.PutAccount(board.Account{Username: "ops", Password: "a password", Role: board.Operator, Enabled: true}); err != nil {
		t.Fatal(err)
	}
	if err := b.SetOverride(t.Context(), board.Override{Enabled: board.Continuous, Target: board.BootHTTP, Mode: board.UEFI, URI: "http://a/b"}); err != nil {
		t.Fatal(err)
	}
	if err := b.ChangeSettings(t.Context(), map[string]string{board.SettingCores: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := b.EnableSecureBoot(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	again, m := open(t, dir)
	if d := cmp.Diff(b.Accounts(), again.Accounts()); d != "" {
		t.Errorf("accounts (-want +got):\n%s", d)
	}
	if d := cmp.Diff(b.Override(), again.Override()); d != "" {
		t.Errorf("override (-want +got):\n%s", d)
	}
	if err := again.Power(t.Context(), board.On); err != nil {
		t.Fatal(err)
	}
	last, _ := m.Booted()
	if last.Boot != board.BootHTTP || last.URI != "http://a/b" || last.Settings[board.SettingCores] != "1" || last.SecureBoot.Enable == nil {
		t.Errorf("it booted by %+v", last)
	}
	t.Run("what waited for the boot is done once", func(t *testing.T) {
		if err := again.Power(t.Context(), board.ForceRestart); err != nil {
			t.Fatal(err)
		}
		if last, _ := m.Booted(); !last.SecureBoot.Empty() || last.Settings[board.SettingCores] != "1" {
			t.Errorf("the second time by %+v", last)
		}
	})
	t.Run("a factory reset forgets accounts", func(t *testing.T) {
		if err := again.FactoryReset(); err != nil {
			t.Fatal(err)
		}
		if _, ok := again.Login("ops", "a password"); ok {
			t.Error("the account is still there")
		}
		if _, ok := again.Login("admin", "secret"); !ok {
			t.Error("the factory's account isn't there")
		}
	})
	t.Run("settings that are damaged say which file to remove", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "bmc.json"), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		m := lab.NewSimulated(board.Hardware{}, 0, 0, time.Now)
		defer m.Close()
		if _, err := board.New(board.Config{Machine: m, Dir: dir, Now: time.Now}); err == nil || !strings.Contains(err.Error(), "remove "+dir) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestBoard_Resetting(t *testing.T) {
	b, _ := open(t, "")
	set := func(target board.Target) {
		if err := b.SetOverride(t.Context(), board.Override{Enabled: board.Once, Target: target, Mode: board.UEFI}); err != nil {
			t.Fatal(err)
		}
	}
	set(board.BootPXE)
	b.Observe(board.Resetting)
	set(board.BootCD)
	b.Observe(board.Booted)
	if got := b.Override(); got.Target != board.BootCD || got.Enabled != board.Once {
		t.Errorf("what was set during a reset is %+v after it", got)
	}
	b.Observe(board.Resetting)
	b.Observe(board.Booted)
	if got := b.Override(); got.Enabled != board.Disabled {
		t.Errorf("what was set before a reset is %+v after it", got)
	}
}

func TestBoard_Accounts(t *testing.T) {
	b, _ := open(t, "")
	if _, err := b.PutAccount(board.Account{ID: 2, Username: "admin", Password: "secret", Role: board.Administrator}); !errors.Is(err, board.ErrLast) {
		t.Errorf("switching the last administrator off: %v", err)
	}
	made := 0
	for i := range 20 {
		_, err := b.PutAccount(board.Account{Username: "user" + string(rune('a'+i)), Password: "secret", Role: board.ReadOnly, Enabled: true})
		if errors.Is(err, board.ErrAccounts) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		made++
	}
	if made != 13 {
		t.Errorf("%d accounts were made beside the first", made)
	}
}

func TestBoard_Log(t *testing.T) {
	b, _ := open(t, "")
	for range 600 {
		b.AddEntry(board.Entry{Message: "x", Severity: board.OK})
	}
	log := b.Log()
	if len(log) != 512 || log[0].ID != 89 || log[511].ID != 600 {
		t.Errorf("%d entries from %d to %d", len(log), log[0].ID, log[len(log)-1].ID)
	}
	if err := b.ClearLog(); err != nil || len(b.Log()) != 0 || b.Erased().IsZero() {
		t.Errorf("clearing: %v", err)
	}
}
