package engine

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/bedplate/bedplate/api"
	"github.com/bedplate/bedplate/discovery"
	"github.com/bedplate/bedplate/layout"
	"github.com/bedplate/bedplate/lifecycle"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/resource/claim"
	"github.com/bedplate/bedplate/trust"
	"github.com/bedplate/bedplate/workflow/expression"
	"github.com/bedplate/bedplate/workflow/rpc"
)

// agentTrust is the CA as the agents' service wants it.
type agentTrust struct {
	ca     *trust.CA
	tokens *trust.BootTokens
	media  *trust.MediaTokens
	now    func() time.Time
}

// VerifyToken implements rpc.Trust.
func (t agentTrust) VerifyToken(token string) (rpc.Claim, error) {
	if trust.IsMediaToken(token) {
		return t.verifyMedium(token)
	}
	b, err := t.tokens.Verify(token, t.now())
	claim := rpc.Claim{Machine: b.Machine, MAC: b.MAC, ID: b.ID, Expires: b.Expires}
	if errors.Is(err, trust.ErrExpiredToken) {
		claim.Expired = true
		return claim, nil
	}
	return claim, err
}

func (t agentTrust) verifyMedium(token string) (rpc.Claim, error) {
	m, err := t.media.Verify(token, t.now())
	claim := rpc.Claim{Machine: m.Machine, ID: m.ID, Expires: m.Expires, Medium: true}
	if errors.Is(err, trust.ErrExpiredMedium) {
		claim.Expired = true
		return claim, nil
	}
	return claim, err
}

// KeyDigest implements rpc.Trust.
func (t agentTrust) KeyDigest(request []byte) (string, error) {
	r, err := trust.ParseAgentRequest(request)
	if err != nil {
		return "", err
	}
	return r.KeyDigest, nil
}

// Sign implements rpc.Trust.
func (t agentTrust) Sign(request []byte, m machine.Name, bootID string) ([][]byte, error) {
	r, err := trust.ParseAgentRequest(request)
	if err != nil {
		return nil, err
	}
	return t.ca.SignAgent(r, trust.Agent{Machine: m, BootID: bootID})
}

// Peer implements rpc.Trust.
func (t agentTrust) Peer(state tls.ConnectionState) (machine.Name, string, error) {
	a, err := trust.PeerAgent(state)
	return a.Machine, a.BootID, err
}

// agentMachines is the lifecycle as the agents' service wants it.
type agentMachines struct {
	*lifecycle.Controller
	db *resource.DB
}

// Discover implements rpc.Machines. A machine that has been given a name since
// its token was made is known by its MAC address.
func (a agentMachines) Discover(ctx context.Context, id rpc.Identity) (machine.Name, error) {
	if name, err := claim.Owner(ctx, a.db, "mac="+id.MAC.String()); err != nil || name != "" {
		return machine.Name(name), err
	}
	return a.Controller.Discover(ctx, id.MAC, id.Others, id.UUID, id.Serial)
}

// Renamed implements rpc.Machines.
func (a agentMachines) Renamed(ctx context.Context, former machine.Name) (machine.Name, bool, error) {
	return discovery.Renamed(ctx, a.db, former)
}

// imageFacts is the catalogue as the workflow controller wants it.
type imageFacts struct{ e *Engine }

// ImageFacts implements workflow.Images.
func (f imageFacts) ImageFacts(_ context.Context, name string, m *pb.Machine) (map[string]any, error) {
	return f.e.imageFacts(name, m)
}

// serverFacts says what expressions see as `server`.
type serverFacts struct{ e *Engine }

func (f serverFacts) facts(_ context.Context, m *pb.Machine, i *pb.Instance) map[string]string {
	return f.e.serverFacts(m, i)
}

// instanceChecker checks an instance's expressions when it is applied.
type instanceChecker struct{}

// CheckInstance implements api.InstanceChecker.
func (instanceChecker) CheckInstance(spec *pb.InstanceSpec) error { return checkInstance(spec) }

// buildAgents builds the service that agents connect to.
func (e *Engine) buildAgents() error {
	cert, err := e.serverCertificate()
	if err != nil {
		return err
	}
	e.agents, err = rpc.New(rpc.Config{
		Address: e.cfg.bind(e.cfg.agentPort()), TLS: cert.AgentTLS(), DB: e.db, Controller: e.workflow,
		Trust:    agentTrust{e.ca, e.key.BootTokens(e.cfg.Rand, 0), e.key.MediaTokens(e.cfg.Rand), e.cfg.Now},
		Machines: agentMachines{e.lifecycle, e.db}, Media: agentMedia{e},
		Observer: e.timeline, Now: e.cfg.Now, Logger: e.log,
	})
	return err
}

// buildAPI builds the control API.
func (e *Engine) buildAPI(context.Context) error {
	cert, err := e.serverCertificate()
	if err != nil {
		return err
	}
	e.api, err = api.New(api.Config{
		Address: e.cfg.bind(e.cfg.apiPort()), TLS: cert.TLS(), Version: e.cfg.Version, DB: e.db, Events: e.events, Sealer: e.sealer, Rand: e.cfg.Rand,
		Templates: templates{e.workflow}, Workflows: workflows{e.workflow}, Machines: machineViews{e.db, e.lifecycle, e.fleet, e.timeline, e.explainConsole},
		Images: imageContent{e}, Signatures: e.signatures, Media: bootMedia{e}, Instances: instanceChecker{}, Rules: ruleChecker{}, Stacks: e.stacks, BMCs: bmcViews{e.fleet, e}, Consoles: consoleViews{e.consoles}, History: e.history, Logger: e.log, Registerer: e.registry,
	})
	return err
}

// Bootstrap makes the first admin token; see api.Server.Bootstrap.
func (e *Engine) Bootstrap(ctx context.Context) (secret string, created bool, err error) {
	return e.api.Bootstrap(ctx)
}

// serverCertificate is for every name and address that this host has.
func (e *Engine) serverCertificate() (*trust.ServerCertificate, error) {
	names := []string{"localhost"}
	var addresses []netip.Addr
	for _, n := range e.cfg.Names {
		if a, err := netip.ParseAddr(n); err == nil {
			addresses = append(addresses, a)
		} else {
			names = append(names, n)
		}
	}
	list, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			addresses = append(addresses, p.Addr())
		}
	}
	return e.ca.NewServerCertificate(names, addresses)
}

// checkInstance checks the expressions of an instance.
func checkInstance(spec *pb.InstanceSpec) error {
	var problems resource.FieldErrors
	add := func(path string, message string) {
		problems.Errors = append(problems.Errors, resource.FieldError{Path: path, Message: message})
	}
	if spec.GetMachine() == "" && spec.GetSelector() == "" {
		add("spec.machine", "say which machine, or choose one by spec.selector")
	}
	if spec.GetSelector() != "" {
		if err := expression.CheckSelector(spec.GetSelector()); err != nil {
			add("spec.selector", err.Error())
		}
	}
	if spec.GetDiskHint() != "" {
		if _, err := expression.CompileDiskHint(spec.GetDiskHint()); err != nil {
			add("spec.disk_hint", err.Error())
		}
	}
	for path, hint := range layout.Hints(spec.GetStorage()) {
		if _, err := expression.CompileDiskHint(hint); err != nil {
			add("spec.storage."+path, err.Error())
		}
	}
	if len(problems.Errors) == 0 {
		return nil
	}
	return &problems
}
