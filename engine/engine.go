// Package engine is the composition root: it builds every service, binds every
// socket before anything is served, runs all in one group, and closes the store
// last. Services meet only here. Two engines can run in one process.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/bedplate/bedplate/api"
	"github.com/bedplate/bedplate/bmc/console"
	"github.com/bedplate/bedplate/bmc/console/sshd"
	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/lease"
	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/images"
	"github.com/bedplate/bedplate/images/catalog"
	"github.com/bedplate/bedplate/images/registry"
	"github.com/bedplate/bedplate/inspection/history"
	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/lifecycle"
	"github.com/bedplate/bedplate/machine"
	"github.com/bedplate/bedplate/machine/index"
	"github.com/bedplate/bedplate/media"
	"github.com/bedplate/bedplate/metadata"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/stack"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
	"github.com/bedplate/bedplate/tftp"
	"github.com/bedplate/bedplate/timeline"
	"github.com/bedplate/bedplate/trust"
	"github.com/bedplate/bedplate/workflow"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/rpc"
)

// shutdownTimeout is how long requests under way may take to end.
const shutdownTimeout = 10 * time.Second

// Engine is one server.
type Engine struct {
	cfg      Config
	log      *slog.Logger
	registry *prometheus.Registry

	store     store.Store
	db        *resource.DB
	events    *event.Log
	evaluator *expression.RuleEvaluator
	ca        *trust.CA
	key       *trust.Key
	sealer    *trust.Sealer
	signer    *trust.Signer

	index     *index.Index
	networks  *networks
	catalogue *catalogue
	documents *documents
	timeline  *timeline.Recorder
	bootFiles *ipxe.BootFiles
	images    *images.Store
	// signatures knows whose images count.
	signatures signatures

	dhcp      *dhcp.Server
	tftp      *tftp.Server
	ipxe      *ipxe.Server
	metadata  *metadata.Server
	declared  *declarations
	media     *media.Server
	mirror    *registry.Mirror
	workflow  *workflow.Controller
	agents    *rpc.Server
	lifecycle *lifecycle.Controller
	stacks    *stack.Controller
	api       *api.Server
	history   *history.History
	fleet     *fleet.Fleet
	jobs      *job.Controller
	consoles  *console.Hub
	ssh       *sshd.Server
	bmcLeases chan lease.Lease

	http     *http.Server
	listener net.Listener

	mu      sync.Mutex
	waiting map[string]bool // what readiness still waits for
	fed     map[string]bool // what has come from the store
	// moved are machines whose leases changed since their status said so.
	moved map[machine.Name]bool
}

// New opens the store and builds every service. Nothing is served yet; Close
// the engine if it isn't Run.
func New(ctx context.Context, cfg Config) (*Engine, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("configuring the server: %w", err)
	}
	e := &Engine{cfg: cfg, log: cfg.Logger, registry: prometheus.NewRegistry(), index: index.New(), networks: &networks{}, catalogue: newCatalogue(), evaluator: &expression.RuleEvaluator{}, waiting: map[string]bool{}, fed: map[string]bool{}, moved: map[machine.Name]bool{}, bmcLeases: make(chan lease.Lease, bmcLeaseBuffer)}
	e.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := e.openState(); err != nil {
		return nil, err
	}
	for _, build := range []func(context.Context) error{e.buildBoot, e.buildMedia, e.buildBMC, e.buildWorkflows, e.buildStacks, e.buildAPI, e.buildSSH, e.seed} {
		if err := build(ctx); err != nil {
			return nil, errors.Join(err, e.Close())
		}
	}
	return e, nil
}

// Close closes the store of an engine that was never Run.
func (e *Engine) Close() error { return e.store.Close() }

// CA returns the server's CA.
func (e *Engine) CA() *trust.CA { return e.ca }

// openState opens all that is kept on disk.
func (e *Engine) openState() error {
	dir := e.cfg.DataDir
	st, err := bolt.Open(filepath.Join(dir, "store.db"), bolt.Options{Registerer: e.registry, Now: e.cfg.Now})
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	e.store = st
	e.db = &resource.DB{Store: st, Now: e.cfg.Now, NewUID: uuid.NewString}
	e.events = event.New(e.db, e.cfg.Rand, 0)
	e.history = history.New(e.db)
	if err := e.openTrust(dir); err != nil {
		return errors.Join(err, st.Close())
	}
	return nil
}

func (e *Engine) openTrust(dir string) (err error) {
	if e.ca, err = trust.OpenCA(dir, e.cfg.Rand, e.cfg.Now); err != nil {
		return err
	}
	if e.key, err = trust.OpenKey(dir, e.cfg.Rand); err != nil {
		return err
	}
	if e.sealer, err = trust.OpenSealer(dir); err != nil {
		return err
	}
	if e.signer, err = trust.OpenSigner(dir, e.ca); err != nil {
		return err
	}
	known, err := catalog.Open(e.cfg.ImageCatalog)
	if err != nil {
		return fmt.Errorf("reading the image catalogue: %w", err)
	}
	e.signatures = signatures{known, e.cfg.RequireImageSignature, e.cfg.Now}
	if e.images, err = images.Open(images.Config{Dir: filepath.Join(dir, "images"), Limit: e.cfg.ImageStoreSize, Now: e.cfg.Now, Log: e.log, Metrics: e.registry}); err != nil {
		return err
	}
	e.mirror, err = registry.New(registry.Config{
		Dir: filepath.Join(dir, "registry"), Allow: e.cfg.RegistryAllow, Insecure: e.cfg.RegistryInsecure, Now: e.cfg.Now, Log: e.log,
	})
	return err
}

// buildBoot builds the services that machines boot from.
func (e *Engine) buildBoot(ctx context.Context) (err error) {
	e.timeline, err = timeline.New(ctx, timeline.Config{Store: e.store, Machines: e.index, Now: e.cfg.Now, Logger: e.log})
	if err != nil {
		return err
	}
	e.declared = newDeclarations()
	e.documents = newDocuments(e.index, e.key.MetadataKey, e.systemNetwork)
	if err := e.loadLeases(ctx); err != nil {
		return err
	}
	if e.bootFiles, err = ipxe.Load(append(e.cfg.IPXEDirs, ipxe.DefaultDirs()...)...); err != nil {
		return err
	}
	for _, m := range e.bootFiles.Missing() {
		e.log.Warn("boot file is missing", "file", m.String())
	}
	e.dhcp, err = dhcp.New(dhcp.Config{
		Interfaces: e.cfg.Interfaces, Machines: e.index, Leases: leases{e.store}, BootFiles: bootFiles(e.bootFiles),
		HTTPBase: func(a netip.Addr) string { return httpBase(a, e.cfg.httpPort()) }, Observer: e.timeline, LeaseChanged: e.leaseChanged,
		Now: e.cfg.Now, Log: e.log, Metrics: e.registry,
	})
	if err != nil {
		return err
	}
	e.ipxe, err = ipxe.New(ipxe.Config{
		BootFiles: e.bootFiles, Machines: e.index, Tokens: bootTokens{e.key.BootTokens(e.cfg.Rand, 0), e.cfg}, Unknown: e.unknownPolicy, StrictAddress: e.networks.ours,
		HTTPBase:     func(peer netip.Addr) string { return httpBase(e.networks.serverAddress(peer), e.cfg.httpPort()) },
		AgentAddress: e.agentAddress, CADigest: e.ca.Digest(), KernelPath: e.cfg.KernelPath(), InitramfsPath: e.cfg.InitramfsPath(),
		Live:     e.liveScript,
		Observer: e.timeline, Logger: e.log, Registerer: e.registry, Now: e.cfg.Now,
	})
	if err != nil {
		return err
	}
	e.tftp, err = tftp.New(tftp.Config{Addrs: e.tftpAddrs(), Files: e.ipxe, Observer: e.timeline, Logger: e.log, Registerer: e.registry, Now: e.cfg.Now})
	if err != nil {
		return err
	}
	e.metadata, err = metadata.New(metadata.Config{
		Source: e.documents, PhoneHome: e.phoneHome, Observer: e.timeline, Logger: e.log, Registerer: e.registry, Now: e.cfg.Now,
	})
	return err
}

// buildMedia builds what makes and serves boot media.
func (e *Engine) buildMedia(context.Context) (err error) {
	e.media, err = media.New(media.Config{
		Store: e.store, Tokens: e.key.MediaTokens(e.cfg.Rand), Describe: e.describeMedium, Dir: e.cfg.agentOSDir(),
		Event: func(name machine.Name, reason, message, actor string) store.Op {
			return e.events.Op(event.Entry{Kind: "Machine", Name: string(name), Reason: reason, Message: message, Actor: actor})
		},
		Observer: e.timeline, Logger: e.log, Registerer: e.registry, Now: e.cfg.Now,
	})
	return err
}

func (e *Engine) tftpAddrs() []netip.AddrPort {
	addr := e.cfg.BindAddress
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	return []netip.AddrPort{netip.AddrPortFrom(addr, orDefault(e.cfg.TFTPPort, 69))}
}

// agentAddress is where a machine at peer finds the agents' service.
func (e *Engine) agentAddress(peer, local netip.Addr) string {
	if !local.IsValid() {
		local = e.networks.serverAddress(peer)
	}
	return hostPort(local.Unmap(), e.cfg.agentPort())
}

// buildWorkflows builds what takes machines through their life.
func (e *Engine) buildWorkflows(context.Context) (err error) {
	e.workflow, err = workflow.New(workflow.Config{
		DB: e.db, Observer: e.timeline, Secrets: secrets{e.db, e.sealer}, Images: imageFacts{e}, Server: serverFacts{e}.facts,
		Event: func(kind, name, reason, message, actor string, warning bool) store.Op {
			return e.events.Op(event.Entry{Kind: kind, Name: name, Reason: reason, Message: message, Actor: actor, Warning: warning})
		},
		Exclusive: true, Now: e.cfg.Now, Logger: e.log, Registry: e.registry,
	})
	if err != nil {
		return err
	}
	e.lifecycle = lifecycle.New(lifecycle.Config{
		Erasure: e.erasureRecord,
		DB:      e.db, Workflows: e.workflow, Sightings: e.timeline, Hooks: newHooks(e.db, secrets{e.db, e.sealer}), Registerer: e.registry,
		Decide: func(rules []*pb.Rule, m *pb.Machine) (discovery.Decision, error) {
			return discovery.Decide(rules, m, e.evaluator)
		},
		Record: e.history.Ops,
		Select: func(selector string, m *pb.Machine) (bool, error) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			return expression.EvalSelector(ctx, orText(selector, "true"), m)
		},
		Event: func(kind, name, reason, message string, warning bool) store.Op {
			return e.events.Op(event.Entry{Kind: kind, Name: name, Reason: reason, Message: message, Warning: warning})
		},
		Now: e.cfg.Now, Logger: e.log,
	})
	return e.buildAgents()
}

// Listen binds every socket. The first that can't be bound ends it.
func (e *Engine) Listen() error {
	var err error
	if e.listener, err = net.Listen("tcp", e.cfg.bind(e.cfg.httpPort())); err != nil {
		return fmt.Errorf("listening for HTTP: %w (another server on port %d? use --http-port)", err, e.cfg.httpPort())
	}
	for _, listen := range []func() error{e.api.Listen, e.agents.Listen, e.tftp.Listen, e.listenDHCP, e.listenSSH} {
		if err := listen(); err != nil {
			return err
		}
	}
	return nil
}

// Run serves until ctx is done or one of the services fails; the first to
// return stops the rest, and the store closes last.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	// What is fed from the store comes first: nothing is answered from an empty index.
	for _, feed := range []func(context.Context) error{e.feedMachines, e.feedImages, e.feedInstances, e.feedNetworks, e.feedConsoles} {
		g.Go(func() error { return feed(ctx) })
	}
	for _, run := range []func(context.Context) error{
		e.timeline.Run, e.events.Run, e.keepHistory, e.pruneImages, e.reportLeases, e.workflow.Run, e.fleet.Run, e.jobs.Run, e.consoles.Run, e.runSSH, e.discoverBMCs, e.lifecycle.Run, e.stacks.Run, e.serveHTTP, e.dhcp.Run, e.tftp.Run, e.agents.Run, e.api.Run,
	} {
		g.Go(func() error {
			err := run(ctx)
			if err == nil && ctx.Err() == nil {
				err = errors.New("a service ended by itself")
			}
			return err
		})
	}
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, e.store.Close())
}

// serveHTTP serves what machines fetch.
func (e *Engine) serveHTTP(ctx context.Context) error {
	e.http = &http.Server{
		Handler: e.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(e.log.Handler(), slog.LevelDebug),
		// No write timeout: an image takes as long as its machine's network.
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := e.http.Shutdown(last); err != nil {
			e.http.Close()
		}
	})
	err := e.http.Serve(e.listener)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serving HTTP: %w", err)
}

// synced returns a function that says that what has that name is complete;
// until then the server isn't ready.
func (e *Engine) synced(what string) func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting[what] = true
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.waiting, what)
		e.fed[what] = true
	}
}
