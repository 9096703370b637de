package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/engine"
)

// serveFlags are the flags of `bedplate serve`.
type serveFlags struct {
	cfg       engine.Config
	bind      string
	logLevel  string
	logFormat string
	noNetwork bool
	storeSize string
}

func newServeCommand(a *app) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the server",
		Long: `Serve DHCP, TFTP, HTTP boot, the agents' service and the control API from one
process, with everything it has to remember in one directory.

With --interface and nothing else it is a working server: it makes a CA, a first
admin token (printed once, and written to the client's configuration), and a
Network for the interface: full DHCP where no other DHCP server answers, else only
boot information beside the one that does.`,
		Example: `  bedplate serve --interface eth1
  bedplate serve --interface eth1 --data-dir /srv/bedplate --agentos-dir build/agentos`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.cfg.DataDir, "data-dir", envOr(a, "BEDPLATE_DATA_DIR", "/var/lib/bedplate"), "`directory` for everything that outlives a restart (or $BEDPLATE_DATA_DIR)")
	flags.StringSliceVarP(&f.cfg.Interfaces, "interface", "i", nil, "network `interface` to serve DHCP on; may be repeated (default: those that a Network is on)")
	flags.BoolVar(&f.noNetwork, "no-first-network", false, "do not make a Network for the interface when there is none")
	flags.StringVar(&f.bind, "bind-address", "", "`address` of the TCP and TFTP sockets (default: all)")
	flags.Uint16Var(&f.cfg.HTTPPort, "http-port", engine.DefaultHTTPPort, "TCP `port` for machines")
	flags.Uint16Var(&f.cfg.APIPort, "api-port", engine.DefaultAPIPort, "TCP `port` of the control API")
	flags.Uint16Var(&f.cfg.AgentPort, "agent-port", engine.DefaultAgentPort, "TCP `port` of the agents' service")
	flags.StringSliceVar(&f.cfg.Names, "name", nil, "further `name` or address that clients reach the API by, for its certificate; may be repeated")
	flags.StringVar(&f.cfg.AgentOSDir, "agentos-dir", "", "`directory` with the agent's system, vmlinuz and initramfs.zst (default: agentos in the data directory)")
	flags.StringSliceVar(&f.cfg.IPXEDirs, "ipxe-dir", nil, "`directory` with boot files that go before the distribution's; may be repeated")
	flags.StringVar(&f.storeSize, "image-store-size", "", "`size` that the image store may take, such as 200GiB (default: its file system, less 1 GiB)")
	flags.StringVar(&f.cfg.ImageCatalog, "image-catalog", "", "`folder` with more entries of the image catalogue (*.yaml), whose keys count as well")
	flags.BoolVar(&f.cfg.RequireImageSignature, "require-image-signature", false, "neither take nor install images that no key of the image catalogue has signed")
	flags.StringSliceVar(&f.cfg.RegistryAllow, "registry-allow", nil, "OCI `registry` that container steps may use; may be repeated (default: all)")
	flags.StringSliceVar(&f.cfg.RegistryInsecure, "registry-insecure", nil, "OCI `registry` that is spoken to over plain HTTP; may be repeated")
	flags.DurationVar(&f.cfg.BMC.PollInterval, "bmc-poll-interval", fleet.DefaultPollInterval, "how often each BMC is asked for power and health; negative: never")
	flags.IntVar(&f.cfg.BMC.PowerBudget, "power-on-budget", job.DefaultPowerBudget, "`number` of machines of one power group (spec.power_group, else spec.rack) that are powered on at a time")
	flags.DurationVar(&f.cfg.BMC.PowerInterval, "power-on-interval", job.DefaultPowerInterval, "time until the next ones of the power group are")
	flags.IntVar(&f.cfg.BMC.RecordConsoles, "record-consoles", 4, "`MiB` that are kept of each machine's serial console; 0: record only while somebody watches")
	flags.Uint16Var(&f.cfg.BMC.SSHPort, "ssh-port", engine.DefaultSSHPort, "TCP `port` of the machines' consoles over SSH; 0: none")
	flags.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&f.logFormat, "log-format", "text", "text or json")
	return cmd
}

func envOr(a *app, name, otherwise string) string {
	if v := a.getenv(name); v != "" {
		return v
	}
	return otherwise
}

func (a *app) serve(ctx context.Context, f serveFlags) error {
	cfg := f.cfg
	log, err := newLogger(a.stderr, f.logLevel, f.logFormat)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Now, cfg.Rand, cfg.Version = log, a.now, rand.Reader, programVersion()
	cfg.FirstNetwork = len(cfg.Interfaces) > 0 && !f.noNetwork
	if f.bind != "" {
		if cfg.BindAddress, err = netip.ParseAddr(f.bind); err != nil {
			return hint(fmt.Errorf("reading --bind-address: %w", err), "give an IP address, such as 10.0.0.1")
		}
	}
	if f.storeSize != "" {
		if cfg.ImageStoreSize, err = parseSize(f.storeSize); err != nil {
			return usageError{fmt.Errorf("reading --image-store-size: %w", err)}
		}
	}
	e, err := engine.New(ctx, cfg)
	if err != nil {
		return err
	}
	if err := a.firstStart(ctx, e, cfg); err != nil {
		return errors.Join(err, e.Close())
	}
	if err := e.Listen(); err != nil {
		return errors.Join(err, e.Close())
	}
	for _, path := range []string{cfg.KernelPath(), cfg.InitramfsPath()} {
		if _, err := os.Stat(path); err != nil {
			log.Warn("the agent's system is missing: no machine can boot it; build it with `bedplate agentos build --out "+filepath.Dir(path)+"`", "file", path)
		}
	}
	log.Info("serving", "addr", fmt.Sprintf("http :%d, api :%d, agents :%d", cfg.HTTPPort, cfg.APIPort, cfg.AgentPort), "iface", cfg.Interfaces)
	err = e.Run(ctx)
	log.Info("stopped")
	return err
}

// firstStart prints the first admin token, and writes it to the client's
// configuration unless that is about another server.
func (a *app) firstStart(ctx context.Context, e *engine.Engine, cfg engine.Config) error {
	secret, created, err := e.Bootstrap(ctx)
	if err != nil || !created {
		return err
	}
	fmt.Fprintf(a.stdout, "First start. The admin token, shown this once:\n\n  %s\n\nThe CA's digest, for other machines' clients (--ca):\n\n  %s\n\n", secret, e.CA().Digest())
	path, err := a.configPath()
	if err != nil {
		return err
	}
	had, err := readConfig(path)
	if err != nil {
		return err
	}
	if had.Server != "" || had.Token != "" {
		fmt.Fprintf(a.stdout, "%s is about another server and was left alone.\nTo use this one: BEDPLATE_TOKEN=… bedplate --server localhost:%d --ca %s …\n", path, cfg.APIPort, e.CA().Digest())
		return nil
	}
	if err := writeConfig(path, clientConfig{Server: fmt.Sprintf("localhost:%d", cfg.APIPort), Token: secret, CA: string(e.CA().PEM())}); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "Both were written to %s: `bedplate machine list` works now.\n", path)
	return nil
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, hint(fmt.Errorf("reading --log-level: %w", err), "it is debug, info, warn or error")
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
	}
	return nil, hint(fmt.Errorf("reading --log-format: %q is unknown", format), "it is text or json")
}
