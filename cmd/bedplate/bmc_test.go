package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// populateBMC sets what the server answers about BMCs. Jobs end as soon as they
// are created: those of web-4, whose BMC is dead, badly.
func populateBMC(f *fakeServer) {
	on(f, "CreateJob", func(q *pb.CreateJobRequest) (*pb.Job, error) {
		j := q.GetJob()
		if j.GetSpec().GetMachine() == "web-9" {
			return nil, notFound(mustKind("Machine"), "web-9")
		}
		j.Status = &pb.JobStatus{State: pb.JobState_JOB_SUCCEEDED, StartTime: at(-9), EndTime: at(-1), Cause: "all operations are done"}
		state, text := pb.JobState_JOB_SUCCEEDED, "done"
		if j.GetSpec().GetMachine() == "web-4" {
			state, text = pb.JobState_JOB_FAILED, ""
			j.Status.State, j.Status.Cause = state, "operation 1 (power on) failed: BMC does not answer"
		}
		for range j.GetSpec().GetOperations() {
			j.Status.Operations = append(j.Status.Operations, &pb.OperationStatus{State: state, Result: text})
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.objects[label(j)] = j
		return j, nil
	})
	on(f, "GetMachineBMC", func(q *pb.GetMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
		switch q.Name {
		case "web-3":
			return &pb.GetMachineBMCResponse{Machine: "web-3", Address: "10.76.0.33", Username: "root", Status: &pb.BMCStatus{
				Power: pb.PowerState_POWER_ON, Health: "ok", BootOverride: "network once", Protocol: "redfish", Vendor: "Contoso", Model: "BMC-9", FirmwareVersion: "2.1", ContactTime: at(-2),
			}}, nil
		case "web-4":
			return &pb.GetMachineBMCResponse{Machine: "web-4", Address: "10.76.0.34", Error: "BMC does not answer", Status: &pb.BMCStatus{Power: pb.PowerState_POWER_OFF, ContactTime: at(-3600)}}, nil
		}
		return nil, status.Errorf(codes.FailedPrecondition, "machine/%s has no BMC: set its spec.bmc.address first", q.Name)
	})
	on(f, "ListMachineSensors", func(*pb.ListMachineSensorsRequest) (*pb.ListMachineSensorsResponse, error) {
		return &pb.ListMachineSensorsResponse{Sensors: []*pb.Sensor{
			{Name: "CPU1 Temp", Kind: "temperature", Value: 41.5, Unit: "°C", Present: true, Health: "ok"},
			{Name: "Fan 3", Kind: "fan", Value: 0, Unit: "RPM", Present: true, Health: "critical"},
			{Name: "PSU 2\x1b[31m", Kind: "power"},
		}}, nil
	})
	on(f, "ListMachineEventLog", func(*pb.ListMachineEventLogRequest) (*pb.ListMachineEventLogResponse, error) {
		return &pb.ListMachineEventLogResponse{Entries: []*pb.BMCLogEntry{
			{Id: "1", Severity: "ok", Message: "Log cleared"},
			{Id: "2", Time: at(-60), Severity: "critical", Sensor: "Fan 3", Message: "Lower Critical going low"},
		}}, nil
	})
	on(f, "ListMachineFirmware", func(*pb.ListMachineFirmwareRequest) (*pb.ListMachineFirmwareResponse, error) {
		return &pb.ListMachineFirmwareResponse{Components: []*pb.FirmwareComponent{{Id: "BIOS", Name: "System BIOS", Version: "1.2", Updatable: true}, {Id: "CPLD", Version: "7"}}}, nil
	})
	on(f, "ListMachineBIOS", func(*pb.ListMachineBIOSRequest) (*pb.ListMachineBIOSResponse, error) {
		return &pb.ListMachineBIOSResponse{Settings: []*pb.BIOSSetting{{Name: "BootMode", Value: "Uefi"}, {Name: "ProcTurboMode", Value: "Enabled", Pending: "Disabled"}}}, nil
	})
	on(f, "GetMachineSecureBoot", func(*pb.GetMachineSecureBootRequest) (*pb.GetMachineSecureBootResponse, error) {
		return &pb.GetMachineSecureBootResponse{Enabled: true, Mode: "user"}, nil
	})
	on(f, "ListMachineBMCUsers", func(*pb.ListMachineBMCUsersRequest) (*pb.ListMachineBMCUsersResponse, error) {
		return &pb.ListMachineBMCUsersResponse{Users: []*pb.BMCUser{{Id: "2", Name: "root", Role: "administrator", Enabled: true}}}, nil
	})
	on(f, "TrustMachineBMC", func(q *pb.TrustMachineBMCRequest) (*pb.GetMachineBMCResponse, error) {
		return &pb.GetMachineBMCResponse{Machine: q.Name, Status: &pb.BMCStatus{CertificateDigest: "sha256:" + strings.Repeat("ab", 32)}}, nil
	})
	on(f, "GetMachineConsoleLog", func(q *pb.GetMachineConsoleLogRequest) (*pb.GetMachineConsoleLogResponse, error) {
		if q.Name == "web-4" {
			return &pb.GetMachineConsoleLogResponse{Error: "BMC does not answer"}, nil
		}
		return &pb.GetMachineConsoleLogResponse{Data: []byte("web-3 login: \n"), Recording: true}, nil
	})
	onStream(f, "ScanBMCs", func(q *pb.ScanBMCsRequest, s grpc.ServerStream) error {
		if q.Ranges[0] == "nonsense" {
			return status.Error(codes.FailedPrecondition, `"nonsense": not an address range such as 10.20.0.0/24 or 10.20.0.10-10.20.0.20`)
		}
		for _, found := range []*pb.FoundBMC{
			{Address: "10.76.0.33", Protocols: "redfish,ipmi", Vendor: "Contoso", Product: "BMC-9", Machine: "web-3"},
			{Address: "10.76.0.40", Protocols: "ipmi", Machine: "bmc-10-76-0-40", Created: q.Apply},
		} {
			if err := s.SendMsg(&pb.ScanBMCsResponse{Event: &pb.ScanBMCsResponse_Found{Found: found}}); err != nil {
				return err
			}
		}
		return s.SendMsg(&pb.ScanBMCsResponse{Event: &pb.ScanBMCsResponse_Progress{Progress: &pb.ScanProgress{Done: 254, Total: 254}}})
	})
}

func TestConsole(t *testing.T) {
	f := newFakeServer(t)
	var typed bytes.Buffer
	f.handlers["AttachMachineConsole"] = func(s grpc.ServerStream) error {
		var m pb.AttachMachineConsoleRequest
		if err := s.RecvMsg(&m); err != nil || m.GetHeader().GetName() != "web-3" {
			return fmt.Errorf("the first message is %v (%w)", &m, err)
		}
		if err := s.SendMsg(&pb.AttachMachineConsoleResponse{Data: []byte("login: ")}); err != nil {
			return err
		}
		for {
			m.Reset()
			if err := s.RecvMsg(&m); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			typed.Write(m.GetData())
		}
	}
	var stdout, stderr bytes.Buffer
	a := newTestApp(f, &stdout, &stderr)
	a.stdin = strings.NewReader("root\r~~x\r~.never")
	a.args = []string{"machine", "console", "web-3"}
	if err := a.run(t.Context()); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	f.stop() // ends the stream, so that all that was typed has arrived
	if got, want := typed.String(), "root\r~x\r"; got != want {
		t.Errorf("typed was %q, want %q", got, want)
	}
	if !strings.Contains(stderr.String(), "~. ends it") {
		t.Errorf("it doesn't say how it ends: %q", stderr.String())
	}
}

func TestEscapes(t *testing.T) {
	for _, tt := range []struct {
		name, in, out string
		over          bool
	}{
		{"at the beginning", "~.", "", true},
		{"after Return", "ls\r~.x", "ls\r", true},
		{"not within a line", "a~.\r", "a~.\r", false},
		{"two are one", "~~.\r", "~.\r", false},
		{"another key goes through with it", "~c", "~c", false},
	} {
		e := escapes{lineStart: true}
		var out []byte
		over := false
		for i := range len(tt.in) { // one key at a time
			var part []byte
			if part, over = e.filter([]byte{tt.in[i]}); over {
				break
			}
			out = append(out, part...)
		}
		if string(out) != tt.out || over != tt.over {
			t.Errorf("%s: %q gives %q (over: %t)", tt.name, tt.in, out, over)
		}
	}
}
