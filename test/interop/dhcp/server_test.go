package dhcp

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/machine"
)

// serverEnv, when set, makes the test binary a DHCP server: its value is a setup.
const serverEnv = "BEDPLATE_INTEROP_DHCP"

// setup is what the server process is to do.
type setup struct {
	Networks []dhcp.Network
	Machines []machine.Machine
	// Store is the file that leases are kept in.
	Store string
}

func TestMain(m *testing.M) {
	if s := os.Getenv(serverEnv); s != "" {
		if err := serve(s); err != nil {
			fmt.Println("ERROR", err)
			os.Exit(1)
		}
		return
	}
	if s := os.Getenv(askEnv); s != "" {
		if err := ask(s); err != nil {
			fmt.Println("ERROR", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// askEnv, when set, makes the test binary send one UDP packet: its value is
// where from, where to, and the octets in hexadecimal.
const askEnv = "BEDPLATE_INTEROP_ASK"

// ask prints the answer.
func ask(text string) error {
	var from, to, octets string
	if _, err := fmt.Sscan(text, &from, &to, &octets); err != nil {
		return err
	}
	b, err := hex.DecodeString(octets)
	if err != nil {
		return err
	}
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from)), Timeout: time.Second}
	c, err := d.Dial("udp4", to)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write(b); err != nil {
		return err
	}
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	answer := make([]byte, 1500)
	n, err := c.Read(answer)
	fmt.Printf("ANSWER %x\n", answer[:n])
	return err
}

func serve(text string) error {
	var set setup
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return err
	}
	store := &fileStore{name: set.Store, leases: map[netip.Addr]lease.Lease{}}
	s, err := dhcp.New(dhcp.Config{
		Machines: inventory(set.Machines), Leases: store, Now: time.Now,
		BootFiles: func(c pxe.Client, _ machine.Machine) (string, bool) {
			name, ok := map[pxe.Platform]string{pxe.BIOS: "undionly.kpxe", pxe.UEFIAMD64: "snponly.efi"}[c.Platform]
			return name, ok
		},
		HTTPBase: func(a netip.Addr) string { return "http://" + a.String() + ":8080" },
		Log:      slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return err
	}
	if err := s.SetNetworks(set.Networks); err != nil {
		return err
	}
	if err := s.Listen(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("SERVING")
	return s.Run(ctx)
}

type inventory []machine.Machine

func (v inventory) find(ok func(machine.Machine) bool) (machine.Machine, bool) {
	if i := slices.IndexFunc(v, ok); i >= 0 {
		return v[i], true
	}
	return machine.Machine{}, false
}

func (v inventory) ByMAC(mac machine.MAC) (machine.Machine, bool) {
	return v.find(func(m machine.Machine) bool { _, ok := m.InterfaceByMAC(mac); return ok })
}

func (v inventory) ByUUID(u machine.UUID) (machine.Machine, bool) {
	return v.find(func(m machine.Machine) bool { return m.UUID == u })
}

func (v inventory) ByAddress(a netip.Addr) (machine.Machine, bool) {
	return v.find(func(m machine.Machine) bool {
		return slices.ContainsFunc(m.Interfaces, func(i machine.Interface) bool { return i.Address.Addr() == a })
	})
}

// fileStore keeps leases in a file, written whole each time.
type fileStore struct {
	name   string
	mu     sync.Mutex
	leases map[netip.Addr]lease.Lease
}

func (f *fileStore) Load(context.Context) ([]lease.Lease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := os.ReadFile(f.name)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f.leases)
	}
	return slices.Collect(maps.Values(f.leases)), err
}

func (f *fileStore) write() error {
	b, err := json.Marshal(f.leases)
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.name+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(f.name+".new", f.name)
}

func (f *fileStore) Put(_ context.Context, l lease.Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leases[l.Address] = l
	return f.write()
}

func (f *fileStore) Delete(_ context.Context, l lease.Lease) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leases, l.Address)
	return f.write()
}
