package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bedplate/bedplate/bmc"
)

// The ports that a server uses where its Config doesn't say otherwise.
const (
	DefaultHTTPPort  = 8080
	DefaultAPIPort   = 8443
	DefaultAgentPort = 8444
	DefaultSSHPort   = 8022
)

// Config is all that a server can be told. Only DataDir is required.
type Config struct {
	// DataDir holds everything that has to outlive a restart.
	DataDir string
	// Interfaces to serve DHCP on; empty: those that a Network names or is on.
	Interfaces []string
	// BindAddress is the address of the HTTP, API, agent and TFTP sockets; invalid: all.
	BindAddress netip.Addr
	// HTTPPort, APIPort and AgentPort are TCP ports; 0: the defaults.
	HTTPPort, APIPort, AgentPort uint16
	// TFTPPort is 69 when 0; other values are for tests, as firmware asks no other.
	TFTPPort uint16
	// Names are further names and addresses that clients reach the API by, for its certificate.
	Names []string
	// IPXEDirs are searched for boot files before the distribution's folders.
	IPXEDirs []string
	// AgentOSDir holds the agent's system, vmlinuz and initramfs.zst; empty: DataDir/agentos.
	AgentOSDir string
	// ImageStoreSize bounds what the image store takes, in bytes; 0: its file system, less 1 GiB.
	ImageStoreSize int64
	// ImageCatalog is a folder with more entries of the image catalogue; empty: none.
	ImageCatalog string
	// RequireImageSignature refuses images that no key of the catalogue has signed.
	RequireImageSignature bool
	// RegistryAllow and RegistryInsecure are about the registry mirror; see package registry.
	RegistryAllow, RegistryInsecure []string
	// FirstNetwork makes a Network for the first of Interfaces if there is none at all.
	FirstNetwork bool
	// BMC is about machines' management controllers.
	BMC     BMCConfig
	Version string

	Logger *slog.Logger
	// Now and Rand are the server's clock and randomness.
	Now  func() time.Time
	Rand io.Reader
}

// BMCConfig is what a server can be told about machines' management controllers.
type BMCConfig struct {
	// PollInterval is how often power and health are asked for. 0: a minute; negative: never.
	PollInterval time.Duration
	// PowerBudget is how many machines of a power group are powered on within
	// PowerInterval. 0: the defaults of package job.
	PowerBudget   int
	PowerInterval time.Duration
	// RecordConsoles is how many MiB are kept of each machine's serial console,
	// which is recorded all the time. 0: consoles are recorded while somebody watches.
	RecordConsoles int
	// SSHPort is the TCP port of the consoles' SSH front end. 0: none.
	SSHPort uint16
	// Dial opens sessions, in tests. Nil: by the protocol.
	Dial func(ctx context.Context, t bmc.Target) (bmc.Driver, error)
}

// Validate says what is wrong with a Config, without touching anything.
func (c Config) Validate() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("no data directory: use --data-dir"))
	}
	if c.Now == nil || c.Rand == nil || c.Logger == nil {
		errs = append(errs, errors.New("the fields Now, Rand and Logger are needed"))
	}
	if c.FirstNetwork && len(c.Interfaces) == 0 {
		errs = append(errs, errors.New("a first network needs an interface: use --interface"))
	}
	ports := map[uint16]string{}
	for _, p := range []struct {
		name string
		port uint16
	}{{"http", c.httpPort()}, {"api", c.apiPort()}, {"agent", c.agentPort()}, {"ssh", c.sshPort()}} {
		if p.port == 0 {
			continue
		}
		if other, taken := ports[p.port]; taken {
			errs = append(errs, fmt.Errorf("the %s and %s ports are both %d", other, p.name, p.port))
		}
		ports[p.port] = p.name
	}
	if n := c.BMC.RecordConsoles; n < 0 || n > maxRecord {
		errs = append(errs, fmt.Errorf("recordings of consoles have 0 to %d MiB each, not %d", maxRecord, n))
	}
	return errors.Join(errs...)
}

// maxRecord bounds Config.BMC.RecordConsoles: with a thousand machines it is a terabyte.
const maxRecord = 1024

func (c Config) httpPort() uint16  { return orDefault(c.HTTPPort, DefaultHTTPPort) }
func (c Config) apiPort() uint16   { return orDefault(c.APIPort, DefaultAPIPort) }
func (c Config) sshPort() uint16   { return c.BMC.SSHPort }
func (c Config) agentPort() uint16 { return orDefault(c.AgentPort, DefaultAgentPort) }

func orDefault(port, otherwise uint16) uint16 {
	if port == 0 {
		return otherwise
	}
	return port
}

// bind returns the address to listen on for a TCP port.
func (c Config) bind(port uint16) string {
	host := ""
	if c.BindAddress.IsValid() {
		host = c.BindAddress.String()
	}
	return host + ":" + strconv.Itoa(int(port))
}

func (c Config) agentOSDir() string {
	if c.AgentOSDir != "" {
		return c.AgentOSDir
	}
	return filepath.Join(c.DataDir, "agentos")
}

// KernelPath is where the agent's kernel is looked for.
func (c Config) KernelPath() string { return filepath.Join(c.agentOSDir(), "vmlinuz") }

// InitramfsPath is where the agent's initramfs is looked for.
func (c Config) InitramfsPath() string { return filepath.Join(c.agentOSDir(), "initramfs.zst") }
