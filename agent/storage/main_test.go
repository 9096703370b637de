package storage

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bedplate/bedplate/agent/system"
)

// verdict is the last line that a guest prints; the host looks for it.
const verdict = "guest tests ended with code"

// TestMain is also process 1 of the virtual machine that TestE2E starts, and
// what its kernel calls to load a module.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == "modprobe":
		if err := system.Modprobe(os.Args[1:], slog.New(slog.DiscardHandler)); err != nil {
			os.Exit(1)
		}
	case os.Getpid() == 1:
		fmt.Printf("\n%s %d\n", verdict, guest(m))
		unix.Sync()
		fmt.Println(system.Leave(system.PowerOff))
	default:
		os.Exit(m.Run())
	}
}

// modules loads drivers in the guest.
var modules *system.Loader

func guest(m *testing.M) int {
	fmt.Println(system.Mount(), system.AttachConsole("/dev/console"), system.InstallModprobe("/init"))
	dir, err := system.ModulesDir("/lib/modules")
	if err != nil {
		fmt.Println(err)
		return 2
	}
	list, err := system.ReadModules(dir)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	modules = system.NewLoader(list, system.InsertModule, slog.New(slog.NewTextHandler(os.Stdout, nil)))
	ctx, cancel := deadline()
	defer cancel()
	modules.Coldplug(ctx, "/sys/devices")
	os.Args = []string{"init", "-test.v", "-test.run=^TestGuest", "-test.timeout=40m"}
	return m.Run()
}
