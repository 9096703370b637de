package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/dhcp"
	"github.com/bedplate/bedplate/dhcp/pxe"
	"github.com/bedplate/bedplate/ipxe"
	"github.com/bedplate/bedplate/lifecycle"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/timeline"
	"github.com/bedplate/bedplate/trust"
	"github.com/bedplate/bedplate/workflow"
	"github.com/bedplate/bedplate/workflow/plan"
)

// bootFiles names boot files for DHCP clients by the table in package ipxe. A
// machine with the label bedplate/secure-boot=true gets the signed chain.
func bootFiles(files *ipxe.BootFiles) pxe.Files {
	return func(c pxe.Client, m machine.Machine) (string, bool) {
		return files.NameFor(ipxe.Arch(c.Arch), m.Labels[labelSecureBoot] == "true")
	}
}

// labelSecureBoot marks machines whose firmware refuses unsigned boot files.
const labelSecureBoot = "bedplate/secure-boot"

// bootTokens makes boot tokens for scripts.
type bootTokens struct {
	tokens *trust.BootTokens
	cfg    Config
}

func (t bootTokens) BootToken(name machine.Name, mac machine.MAC) (string, error) {
	return t.tokens.Mint(name, mac, t.cfg.Now())
}

// unknownPolicy says what a stranger on a network gets from the boot script.
func (e *Engine) unknownPolicy(peer netip.Addr) ipxe.UnknownPolicy {
	network, ok := e.networks.of(peer)
	if !ok {
		return ipxe.UnknownIgnore
	}
	switch network.Unknown {
	case dhcp.Discover:
		return ipxe.UnknownDiscover
	case dhcp.Refuse:
		return ipxe.UnknownRefuse
	case dhcp.UnknownDefault:
		if network.Mode != dhcp.Proxy {
			return ipxe.UnknownDiscover
		}
	}
	return ipxe.UnknownIgnore
}

// workflows is the workflow controller as the API wants it.
type workflows struct{ *workflow.Controller }

// templates is the workflow controller as the API has templates checked.
type templates struct{ *workflow.Controller }

// CheckTemplate implements api.TemplateChecker.
func (t templates) CheckTemplate(spec *pb.TemplateSpec) error {
	return fieldErrors(t.Controller.CheckTemplate(spec))
}

// fieldErrors turns what is wrong with a template or its inputs into what the API answers.
func fieldErrors(err error) error {
	var problems plan.Problems
	if !errors.As(err, &problems) {
		return err
	}
	out := &resource.FieldErrors{}
	for _, p := range problems {
		out.Errors = append(out.Errors, resource.FieldError{Path: p.Field, Message: p.Message})
	}
	return out
}

// NewWorkflow implements api.Workflows. The workflow is stored queued; the
// controller starts it when its machine is free.
func (w workflows) NewWorkflow(ctx context.Context, wf *pb.Workflow, _ *pb.Template, m *pb.Machine) error {
	wf.Spec.Instance = m.GetStatus().GetInstance()
	made, err := w.Preview(ctx, wf)
	if err != nil {
		return fieldErrors(err)
	}
	wf.Spec, wf.Status = made.Spec, made.Status
	wf.Status.State = pb.WorkflowState_QUEUED
	return nil
}

// Cancel implements api.Workflows.
func (w workflows) Cancel(ctx context.Context, name, reason, actor string) (*pb.Workflow, error) {
	return w.CancelBy(ctx, name, reason, actor)
}

// Follow implements api.Workflows.
func (w workflows) Follow(ctx context.Context, r *pb.FollowWorkflowRequest, send func(*pb.FollowWorkflowResponse) error) error {
	return w.Controller.Follow(ctx, r.GetName(), workflow.FollowOptions{History: r.GetHistory(), NoFollow: r.GetNoFollow()}, send)
}

// machineViews answers what is asked about machines.
type machineViews struct {
	db        *resource.DB
	lifecycle *lifecycle.Controller
	fleet     *fleet.Fleet
	timeline  *timeline.Recorder
	// console adds what the machine's console has said, where that may help.
	console func(name string, r *pb.ExplainMachineResponse)
}

// Explain implements api.MachineViews.
func (v machineViews) Explain(ctx context.Context, name string) (*pb.ExplainMachineResponse, error) {
	r, err := v.lifecycle.Explain(ctx, name)
	if err != nil {
		return nil, err
	}
	b := v.fleet.Explain(name)
	r.Advice = append(r.Advice, b.Advice...)
	if b.Sighting != nil {
		r.Sightings = slices.DeleteFunc(r.Sightings, func(s *pb.Sighting) bool { return s.Source == b.Sighting.Source })
		r.Sightings = append(r.Sightings, b.Sighting)
		slices.SortStableFunc(r.Sightings, func(x, y *pb.Sighting) int { return y.Time.AsTime().Compare(x.Time.AsTime()) })
	}
	v.console(name, r)
	return r, nil
}

// Retry implements api.MachineViews.
func (v machineViews) Retry(ctx context.Context, name string, ops ...store.Op) (*pb.Machine, error) {
	return v.lifecycle.Retry(ctx, name, ops...)
}

// Timeline implements api.MachineViews.
func (v machineViews) Timeline(ctx context.Context, name string) ([]*pb.Phase, error) {
	if _, err := resource.Get[*pb.Machine](ctx, v.db, name); err != nil {
		return nil, err
	}
	return v.timeline.Phases(machine.Name(name)), nil
}

// Follow implements api.MachineViews.
func (v machineViews) Follow(ctx context.Context, name string, send func(*pb.FollowMachineResponse) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := v.timeline.Follow(ctx, machine.Name(name))
	m, err := resource.Get[*pb.Machine](ctx, v.db, name)
	if err != nil {
		return err
	}
	changes, err := resource.Watch[*pb.Machine](ctx, v.db, m.Metadata.ResourceVersion)
	if err != nil {
		return err
	}
	if err := send(&pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Machine{Machine: m}}); err != nil {
		return err
	}
	for {
		var next *pb.FollowMachineResponse
		select {
		case item, ok := <-seen:
			if !ok {
				return ctx.Err()
			}
			next = itemResponse(item)
		case ch, ok := <-changes:
			if !ok {
				return ctx.Err()
			}
			if next, err = changeResponse(ch, name); err != nil {
				return err
			}
		}
		if next == nil {
			continue
		}
		if err := send(next); err != nil {
			return err
		}
	}
}

func itemResponse(item timeline.Item) *pb.FollowMachineResponse {
	if item.Phase != nil {
		return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Phase{Phase: item.Phase}}
	}
	return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Sighting{Sighting: item.Sighting}}
}

func changeResponse(ch resource.Change[*pb.Machine], name string) (*pb.FollowMachineResponse, error) {
	if ch.Err != nil {
		return nil, ch.Err
	}
	if ch.Object.GetMetadata().GetName() != name {
		return nil, nil
	}
	if ch.Type == pb.ChangeType_DELETED {
		return nil, fmt.Errorf("machine/%s was deleted: %w", name, store.ErrNotFound)
	}
	return &pb.FollowMachineResponse{Event: &pb.FollowMachineResponse_Machine{Machine: ch.Object}}, nil
}

// secrets opens Secret resources for the plans that need them.
type secrets struct {
	db     *resource.DB
	sealer *trust.Sealer
}

// Secret implements workflow.Secrets.
func (s secrets) Secret(ctx context.Context, name string) (map[string]string, error) {
	sec, err := resource.Get[*pb.Secret](ctx, s.db, name)
	if err != nil {
		return nil, err
	}
	values, err := s.sealer.OpenValues(name, sec.GetStatus().GetSealed())
	if err != nil {
		return nil, fmt.Errorf("opening secret %s: %w", name, err)
	}
	return values, nil
}

// Versioned is Secret with the resource's version.
func (s secrets) Versioned(ctx context.Context, name string) (map[string]string, int64, error) {
	sec, err := resource.Get[*pb.Secret](ctx, s.db, name)
	if err != nil {
		return nil, 0, err
	}
	values, err := s.Secret(ctx, name)
	return values, sec.GetMetadata().GetResourceVersion(), err
}

// imageFacts describes an image as expressions and image.write see it.
func (e *Engine) imageFacts(name string, m *pb.Machine) (map[string]any, error) {
	i, ok := e.catalogue.get(name)
	if !ok {
		return nil, fmt.Errorf("image %s: %w", name, store.ErrNotFound)
	}
	i = proto.Clone(i).(*pb.Image)
	url, digest, size := i.GetSpec().GetUrl(), i.GetSpec().GetDigest(), i.GetSpec().GetSizeBytes()
	if i.GetStatus().GetDigest() != "" {
		url = e.baseFor(m) + "/images/" + name
		digest, size = i.GetStatus().GetDigest(), i.GetStatus().GetSizeBytes()
	}
	format, compression := i.GetSpec().GetFormat(), i.GetSpec().GetCompression()
	if i.GetStatus().GetIndexDigest() != "" { // What is at the URL then is the disk itself.
		digest, size, format, compression = "", i.GetStatus().GetDiskBytes(), "raw", "none"
	}
	if url == "" && i.GetSpec().GetLive() == nil {
		return nil, fmt.Errorf("image %s has neither a URL nor content: import it with `bedplate image import %s --file …`", name, name)
	}
	if err := e.signatures.allow(i); err != nil {
		return nil, err
	}
	finish, err := finishFacts(i.GetSpec())
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	live, err := e.liveFacts(i, m)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"finish": finish, "live": live,
		"name": name, "url": url, "digest": digest, "size_bytes": float64(size),
		"index": i.GetStatus().GetIndexDigest(), "chunks_url": e.baseFor(m) + "/images",
		"format": format, "compression": compression,
		"root_partition": float64(i.GetSpec().GetRootPartition()), "os": i.GetSpec().GetOs(), "os_version": i.GetSpec().GetOsVersion(),
		"architecture": i.GetSpec().GetArchitecture(), "configuration": orText(i.GetSpec().GetConfiguration(), "cloud-init"),
		"handover": orText(i.GetSpec().GetHandover(), "auto"),
	}, nil
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// baseFor returns the base URL by which a machine reaches this server.
func (e *Engine) baseFor(m *pb.Machine) string {
	if a, err := netip.ParseAddr(m.GetStatus().GetAgent().GetAddress()); err == nil {
		return httpBase(e.networks.serverAddress(a), e.cfg.httpPort())
	}
	return ""
}

// serverFacts are what expressions see as `server`.
func (e *Engine) serverFacts(m *pb.Machine, i *pb.Instance) map[string]string {
	base := e.baseFor(m)
	facts := map[string]string{"http_url": base, "network_config_url": "", "metadata_url": "", "ignition_url": "", "talos_url": ""}
	if a, err := netip.ParseAddr(m.GetStatus().GetAgent().GetAddress()); err == nil {
		facts["registry"] = hostPort(e.networks.serverAddress(a), e.cfg.httpPort())
	}
	if i != nil {
		key := e.key.MetadataKey(i.GetMetadata().GetName(), i.GetMetadata().GetUid())
		url := base + "/nocloud/" + key + "/"
		facts["metadata_url"] = url
		facts["talos_url"] = base + "/talos/" + key + "/config.yaml"
		facts["ignition_url"] = base + "/ignition/" + key + "/config.ign"
		if i.GetSpec().GetNetworkConfig() != "" || m.GetSpec().GetNetwork() != nil || withoutDHCP(machineValue(m), e.networks) {
			facts["network_config_url"] = url + "network-config"
		}
	}
	return facts
}
