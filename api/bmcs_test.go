package api

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// fakeBMCs answer for every machine but dead-1.
type fakeBMCs struct{}

func (fakeBMCs) Answer(_ context.Context, name string, answer proto.Message) error {
	if name == "dead-1" {
		return errors.New("BMC does not answer")
	}
	if a, ok := answer.(*pb.ListMachineSensorsResponse); ok {
		a.Sensors = []*pb.Sensor{{Name: "CPU"}}
	}
	return nil
}

func (fakeBMCs) Status(_ context.Context, name string, _ bool) (*pb.GetMachineBMCResponse, error) {
	return &pb.GetMachineBMCResponse{Machine: name}, nil
}

func (fakeBMCs) Trust(_ context.Context, r *pb.TrustMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
	return &pb.GetMachineBMCResponse{Machine: r.GetName()}, nil
}

func (fakeBMCs) Scan(_ context.Context, _ *pb.ScanBMCsRequest, actor string, send func(*pb.ScanBMCsResponse) error) error {
	return send(&pb.ScanBMCsResponse{Event: &pb.ScanBMCsResponse_Found{Found: &pb.FoundBMC{Address: "10.0.0.9", Machine: actor}}})
}

// fakeConsoles say what is typed in capitals.
type fakeConsoles struct{}

func (fakeConsoles) Log(context.Context, string, int) (*pb.GetMachineConsoleLogResponse, error) {
	return &pb.GetMachineConsoleLogResponse{Data: []byte("login: ")}, nil
}

func (fakeConsoles) Attach(ctx context.Context, _ string, _ int, typed <-chan []byte, send func([]byte, string) error) error {
	if err := send([]byte("login: "), ""); err != nil {
		return err
	}
	for {
		select {
		case data := <-typed:
			if err := send([]byte(strings.ToUpper(string(data))), ""); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func TestBMCs(t *testing.T) {
	r := newRig(t)
	viewer, operator := r.as(r.token("eyes", pb.Role_VIEWER)), r.as(r.token("op", pb.Role_OPERATOR))
	for _, name := range []string{"web-1", "dead-1"} {
		r.createMachine(&pb.Machine{Metadata: &pb.Metadata{Name: name}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: name + ".bmc"}}})
	}
	r.createMachine(testMachine("bare", "52:54:00:77:00:01", ""))
	t.Run("a viewer reads", func(t *testing.T) {
		out, err := r.machines().ListMachineSensors(viewer, &pb.ListMachineSensorsRequest{Name: "web-1"})
		if err != nil || len(out.GetSensors()) != 1 {
			t.Errorf("got %v, %v", out, err)
		}
	})
	t.Run("a machine without a BMC, and one that isn't there, are refused", func(t *testing.T) {
		_, err := r.machines().ListMachineSensors(viewer, &pb.ListMachineSensorsRequest{Name: "bare"})
		wantCode(t, err, codes.FailedPrecondition, "spec.bmc.address")
		_, err = r.machines().GetMachineBMC(viewer, &pb.GetMachineBMCRequest{Name: "web-9"})
		wantCode(t, err, codes.NotFound, "web-9")
	})
	t.Run("what the BMC's side says arrives", func(t *testing.T) {
		_, err := r.machines().ListMachineFirmware(viewer, &pb.ListMachineFirmwareRequest{Name: "dead-1"})
		wantCode(t, err, codes.FailedPrecondition, "BMC does not answer")
	})
	t.Run("a viewer neither trusts, scans nor types", func(t *testing.T) {
		_, err := r.machines().TrustMachineBMC(viewer, &pb.TrustMachineBMCRequest{Name: "web-1"})
		wantCode(t, err, codes.PermissionDenied, "operator")
		scan, err := r.machines().ScanBMCs(viewer, &pb.ScanBMCsRequest{Ranges: []string{"10.0.0.0/24"}})
		if err == nil {
			_, err = scan.Recv()
		}
		wantCode(t, err, codes.PermissionDenied, "operator")
		console, err := r.machines().AttachMachineConsole(viewer)
		if err == nil {
			_, err = console.Recv()
		}
		wantCode(t, err, codes.PermissionDenied, "operator")
	})
	t.Run("a scan with a secret that isn't there is refused at its field", func(t *testing.T) {
		scan, err := r.machines().ScanBMCs(operator, &pb.ScanBMCsRequest{Ranges: []string{"10.0.0.0/24"}, PasswordSecret: "nowhere"})
		if err == nil {
			_, err = scan.Recv()
		}
		wantField(t, err, "password_secret", `there is no secret "nowhere"`)
	})
}

func TestConsoles(t *testing.T) {
	r := newRig(t)
	operator := r.as(r.token("op", pb.Role_OPERATOR))
	r.createMachine(&pb.Machine{Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: "web-1.bmc"}}})
	t.Run("an operator types, and it is on record who", func(t *testing.T) {
		console, err := r.machines().AttachMachineConsole(operator)
		if err != nil {
			t.Fatal(err)
		}
		header := &pb.AttachMachineConsoleRequest_Header{Header: &pb.AttachMachineConsoleHeader{Name: "web-1"}}
		data := &pb.AttachMachineConsoleRequest_Data{Data: []byte("root\n")}
		for _, m := range []*pb.AttachMachineConsoleRequest{{Part: header}, {Part: data}} {
			if err := console.Send(m); err != nil {
				t.Fatal(err)
			}
		}
		got := ""
		for got != "login: ROOT\n" {
			m, err := console.Recv()
			if err != nil {
				t.Fatalf("%v after %q", err, got)
			}
			got += string(m.GetData())
		}
		if err := console.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := console.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("it ends with %v", err)
		}
		events, err := pb.NewEventServiceClient(r.conn).ListEvents(r.ctx(), &pb.ListEventsRequest{SubjectKind: "Machine", SubjectName: "web-1"})
		if err != nil || events.GetEvents()[0].GetReason() != "ConsoleAttached" || events.GetEvents()[0].GetActor() != "op" {
			t.Errorf("on record is %v, %v", events, err)
		}
	})
	t.Run("the first message must name the machine", func(t *testing.T) {
		console, err := r.machines().AttachMachineConsole(operator)
		if err != nil {
			t.Fatal(err)
		}
		if err := console.Send(&pb.AttachMachineConsoleRequest{Part: &pb.AttachMachineConsoleRequest_Data{Data: []byte("x")}}); err != nil {
			t.Fatal(err)
		}
		_, err = console.Recv()
		wantCode(t, err, codes.InvalidArgument, "header")
	})
}

func TestServer_HolderOf(t *testing.T) {
	r := newRig(t)
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM1cVuUrWYBsRZ7DPx1Qm3Cz3PvNVRgPtHTdkAdwVRu5"
	out, err := pb.NewTokenServiceClient(r.conn).CreateToken(r.ctx(), &pb.CreateTokenRequest{
		Token: &pb.Token{Metadata: &pb.Metadata{Name: "ana"}, Spec: &pb.TokenSpec{Role: pb.Role_OPERATOR, SshKeys: []string{key + " ana"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddr("10.0.0.1")
	h, err := r.api.HolderOf(out.GetSecret(), from)
	if err != nil || h.Name != "ana" || h.Role != pb.Role_OPERATOR || h.Still() != nil {
		t.Errorf("by the token it is %+v, %v", h, err)
	}
	blob, err := base64.StdEncoding.DecodeString(strings.Fields(key)[1])
	if err != nil {
		t.Fatal(err)
	}
	if h, err := r.api.HolderOfKey(blob); err != nil || h.Name != "ana" {
		t.Errorf("by the key it is %+v, %v", h, err)
	}
	if _, err := r.api.HolderOfKey([]byte("another")); err == nil {
		t.Error("a stranger's key is taken")
	}
	if _, err := r.api.HolderOf("guess", from); err == nil {
		t.Error("a guess is taken")
	}
	if _, err := pb.NewTokenServiceClient(r.conn).DeleteToken(r.ctx(), &pb.DeleteTokenRequest{Name: "ana"}); err != nil {
		t.Fatal(err)
	}
	if h.Still() == nil {
		t.Error("a token that was deleted is still good")
	}
}
