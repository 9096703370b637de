package api

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/bedplate/bedplate/event"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// BMCs asks machines' BMCs. The machine exists and has one when it is asked.
type BMCs interface {
	// Answer fills in one of the responses that are read from a BMC.
	Answer(ctx context.Context, name string, answer proto.Message) error
	// Status says how a BMC is; that it can't be asked is part of the answer.
	Status(ctx context.Context, name string, retry bool) (*pb.GetMachineBMCResponse, error)
	// Trust pins the certificate that a BMC shows now.
	Trust(ctx context.Context, r *pb.TrustMachineBMCRequest) (*pb.GetMachineBMCResponse, error)
	// Scan looks for BMCs and calls send, from one goroutine, with each.
	Scan(ctx context.Context, r *pb.ScanBMCsRequest, actor string, send func(*pb.ScanBMCsResponse) error) error
}

// managed refuses names of machines that aren't there or have no BMC.
func (a *machineAPI) managed(ctx context.Context, name string) error {
	if a.s.cfg.BMCs == nil {
		return unavailable("BMCs")
	}
	m, err := a.get(ctx, name)
	if err != nil {
		return err
	}
	if m.GetSpec().GetBmc().GetAddress() == "" {
		return refused("machine/%s has no BMC: set its spec.bmc.address first", name)
	}
	return nil
}

// ask fills in answer from the machine's BMC.
func ask[T proto.Message](ctx context.Context, a *machineAPI, name string, answer T) (T, error) {
	var none T
	if err := a.managed(ctx, name); err != nil {
		return none, err
	}
	if err := a.s.cfg.BMCs.Answer(ctx, name, answer); err != nil {
		return none, hookError(err)
	}
	return answer, nil
}

// GetMachineBMC implements pb.MachineServiceServer.
func (a *machineAPI) GetMachineBMC(ctx context.Context, r *pb.GetMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
	if err := a.managed(ctx, r.GetName()); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.BMCs.Status(ctx, r.GetName(), r.GetRetry())
	return out, hookError(err)
}

// TrustMachineBMC implements pb.MachineServiceServer. It is in the event log
// before the certificate is trusted.
func (a *machineAPI) TrustMachineBMC(ctx context.Context, r *pb.TrustMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
	if err := a.managed(ctx, r.GetName()); err != nil {
		return nil, err
	}
	what := "whatever certificate its BMC shows next is pinned"
	if d := r.GetCertificateDigest(); d != "" {
		what = "its BMC's certificate is to be " + d
	}
	if r.GetResetPassword() {
		what += "; its BMC has the Secret's password again"
	}
	if err := a.noteBMC(ctx, r.GetName(), "BMCTrusted", what); err != nil {
		return nil, err
	}
	out, err := a.s.cfg.BMCs.Trust(ctx, r)
	return out, hookError(err)
}

// noteBMC writes one line of the event log, in the caller's name.
func (a *machineAPI) noteBMC(ctx context.Context, name, reason, message string) error {
	_, err := a.s.cfg.DB.Store.Txn(ctx, nil, []store.Op{a.s.cfg.Events.Op(event.Entry{
		Kind: "Machine", Name: name, Reason: reason, Message: message, Actor: caller(ctx).name,
	})})
	return err
}

// ListMachineSensors implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineSensors(ctx context.Context, r *pb.ListMachineSensorsRequest) (*pb.ListMachineSensorsResponse, error) {
	return ask(ctx, a, r.GetName(), &pb.ListMachineSensorsResponse{})
}

// ListMachineEventLog implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineEventLog(ctx context.Context, r *pb.ListMachineEventLogRequest) (*pb.ListMachineEventLogResponse, error) {
	out, err := ask(ctx, a, r.GetName(), &pb.ListMachineEventLogResponse{})
	if n := int(r.GetLimit()); err == nil && n > 0 && len(out.Entries) > n {
		out.Entries = out.Entries[len(out.Entries)-n:]
	}
	return out, err
}

// ListMachineFirmware implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineFirmware(ctx context.Context, r *pb.ListMachineFirmwareRequest) (*pb.ListMachineFirmwareResponse, error) {
	return ask(ctx, a, r.GetName(), &pb.ListMachineFirmwareResponse{})
}

// ListMachineBIOS implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineBIOS(ctx context.Context, r *pb.ListMachineBIOSRequest) (*pb.ListMachineBIOSResponse, error) {
	return ask(ctx, a, r.GetName(), &pb.ListMachineBIOSResponse{})
}

// GetMachineSecureBoot implements pb.MachineServiceServer.
func (a *machineAPI) GetMachineSecureBoot(ctx context.Context, r *pb.GetMachineSecureBootRequest) (*pb.GetMachineSecureBootResponse, error) {
	return ask(ctx, a, r.GetName(), &pb.GetMachineSecureBootResponse{})
}

// ListMachineBMCUsers implements pb.MachineServiceServer.
func (a *machineAPI) ListMachineBMCUsers(ctx context.Context, r *pb.ListMachineBMCUsersRequest) (*pb.ListMachineBMCUsersResponse, error) {
	return ask(ctx, a, r.GetName(), &pb.ListMachineBMCUsersResponse{})
}

// ScanBMCs implements pb.MachineServiceServer.
func (a *machineAPI) ScanBMCs(r *pb.ScanBMCsRequest, stream grpc.ServerStreamingServer[pb.ScanBMCsResponse]) error {
	ctx := stream.Context()
	if a.s.cfg.BMCs == nil {
		return unavailable("BMCs")
	}
	if name := r.GetPasswordSecret(); name != "" {
		if err := exists[*pb.Secret](ctx, a.s.cfg.DB, "password_secret", name); err != nil {
			return err
		}
	}
	if r.GetPool() != "" && !resource.ValidName(r.GetPool()) {
		return fieldError("pool", "%v", resource.ErrName)
	}
	return hookError(a.s.cfg.BMCs.Scan(ctx, r, caller(ctx).name, stream.Send))
}
