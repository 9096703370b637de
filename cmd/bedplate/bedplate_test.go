package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// noon is when all tests run.
func noon() time.Time { return time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC) }

func at(seconds float64) *timestamppb.Timestamp {
	return timestamppb.New(noon().Add(time.Duration(seconds * float64(time.Second))))
}

// newTestApp returns an app on a server, without a terminal or an environment.
func newTestApp(f *fakeServer, stdout, stderr io.Writer) *app {
	a := &app{
		getenv: func(string) string { return "" }, stdin: strings.NewReader(""), stdout: stdout, stderr: stderr,
		width: func(any) int { return 0 }, now: noon, zone: time.UTC, suffix: func() string { return "abc123" },
	}
	a.connect = a.dial
	if f != nil {
		a.connect = f.connect
		a.getenv = func(name string) string {
			return map[string]string{"BEDPLATE_SERVER": "bedplate.example", "BEDPLATE_TOKEN": "bpt_x", "HOME": "/nonexistent"}[name]
		}
	}
	return a
}

// command runs one command line and returns a transcript of it.
func command(ctx context.Context, a *app, line string) string {
	var stdout, stderr bytes.Buffer
	a.stdout, a.stderr = &stdout, &stderr
	line, input, _ := strings.Cut(line, " < ")
	if input != "" {
		data, err := os.ReadFile(input)
		if err != nil {
			return err.Error()
		}
		a.stdin = bytes.NewReader(data)
	}
	a.args = splitWords(line)
	a.flags = globalFlags{}
	code := exitCode(a.run(ctx))
	out := stdout.String()
	if stderr.Len() > 0 {
		if out != "" {
			out += "[stderr]\n"
		}
		out += stderr.String()
	}
	if code != 0 {
		out += fmt.Sprintf("[exit code %d]\n", code)
	}
	return strings.ReplaceAll(out, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH, "GO")
}

// splitWords splits at spaces, but not inside single quotes.
func splitWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		words = append(words, strings.Fields(part)...)
	}
	return words
}

// TestCommands runs the scripts in testdata/*.txtar: the lines of the file
// `script` one after another, in a folder with the other files of the archive,
// against a server with the resources of fixtures.yaml. `transcript` is what
// they print; -update rewrites it.
func TestCommands(t *testing.T) {
	names, err := filepath.Glob(filepath.Join("testdata", "*.txtar"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	fixtures, err := filepath.Abs(filepath.Join("testdata", "fixtures.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			golden, err := filepath.Abs(name)
			if err != nil {
				t.Fatal(err)
			}
			runScript(t, golden, fixtures)
		})
	}
}

func runScript(t *testing.T, golden, fixtures string) {
	archive, err := txtar.ParseFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	var script, want string
	transcript := -1
	for i, f := range archive.Files {
		switch f.Name {
		case "script":
			script = string(f.Data)
		case "transcript":
			want, transcript = string(f.Data), i
		default:
			if err := os.MkdirAll(filepath.Dir(f.Name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(f.Name, f.Data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	server := newFakeServer(t)
	server.load(t, fixtures)
	populate(server)
	var got strings.Builder
	a := newTestApp(server, nil, nil)
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fmt.Fprintf(&got, "$ bedplate %s\n%s", line, command(t.Context(), a, line))
	}
	if *update {
		if transcript < 0 {
			transcript = len(archive.Files)
			archive.Files = append(archive.Files, txtar.File{Name: "transcript"})
		}
		archive.Files[transcript].Data = []byte(got.String())
		want = got.String()
		if err := os.WriteFile(golden, txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(want, got.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// populate sets what the server answers besides its resources.
func populate(f *fakeServer) {
	f.events = []*pb.Event{
		{Time: at(-180), SubjectKind: "Machine", SubjectName: "web-1", Reason: "StateChanged", Message: "available -> provisioning", Actor: "system", Type: "normal"},
		{Time: at(-90), SubjectKind: "Workflow", SubjectName: "install-web-1", Reason: "StepFailed", Message: "step write: no space\nleft", Actor: "agent/web-1", Type: "warning"},
		{Time: at(-5), SubjectKind: "Image", SubjectName: "debian-13", Reason: "Updated", Message: "spec.os", Actor: "ci", Type: "normal"},
	}
	on(f, "ExplainMachine", func(q *pb.ExplainMachineRequest) (*pb.ExplainMachineResponse, error) {
		m, _ := f.objects["machine/"+q.Name].(*pb.Machine)
		if m == nil {
			return nil, notFound(mustKind("Machine"), q.Name)
		}
		return &pb.ExplainMachineResponse{
			Machine: m, Summary: q.Name + " is provisioning", WaitingFor: "step write of workflow install-web-1", Since: at(-170), Deadline: at(3400),
			Sightings: []*pb.Sighting{{Source: "dhcp", Time: at(-200), Address: "10.77.0.31", Detail: "ACK"}, {Source: "agent", Time: at(-3), Detail: "step"}},
			Advice:    []string{"`bedplate workflow logs -f install-web-1`", "look at the disk"},
		}, nil
	})
	on(f, "GetMachineTimeline", func(q *pb.GetMachineTimelineRequest) (*pb.GetMachineTimelineResponse, error) {
		if q.Name == "web-2" {
			return &pb.GetMachineTimelineResponse{}, nil
		}
		return &pb.GetMachineTimelineResponse{Phases: []*pb.Phase{
			{Name: "firmware", StartTime: at(-60), EndTime: at(-40), Duration: durationpb.New(20 * time.Second)},
			{Name: "dhcp", StartTime: at(-40), EndTime: at(-39.5), Detail: "10.77.0.31"},
			{Name: "step write", StartTime: at(-39.5), EndTime: at(-10), Error: "no space left on device"},
			{Name: "reboot", StartTime: at(-10)},
		}}, nil
	})
	populateHistory(f)
	on(f, "GetServerInfo", func(*pb.GetServerInfoRequest) (*pb.GetServerInfoResponse, error) {
		return &pb.GetServerInfoResponse{Version: "v1.2.3", Token: "ci", Role: pb.Role_OPERATOR, StartTime: at(-7200)}, nil
	})
	action := func(name string) (*pb.Workflow, error) {
		w, _ := f.objects["workflow/"+name].(*pb.Workflow)
		if w == nil {
			return nil, notFound(mustKind("Workflow"), name)
		}
		return w, nil
	}
	on(f, "CancelWorkflow", func(*pb.CancelWorkflowRequest) (*pb.Workflow, error) {
		return nil, status.Error(codes.FailedPrecondition, "workflow/install-web-1 has ended already")
	})
	on(f, "RetryWorkflow", func(q *pb.RetryWorkflowRequest) (*pb.Workflow, error) { return action(q.Name) })
	on(f, "ApproveWorkflow", func(q *pb.ApproveWorkflowRequest) (*pb.Workflow, error) { return action(q.Name) })
	onStream(f, "FollowWorkflow", func(q *pb.FollowWorkflowRequest, s grpc.ServerStream) error { return followFixture(f, q, s) })
	populateBMC(f)
	f.refuse = func(obj resource.Object) error {
		m, ok := obj.(*pb.Machine)
		if ok && m.GetSpec().GetSerial() == "DUP" {
			return badFields("spec.serial", "DUP is machine/web-1's already", "spec.interfaces[0].mac", "taken")
		}
		if ok && m.GetSpec().GetSerial() == "BUSY" {
			return status.Error(codes.FailedPrecondition, "a workflow owns it: cancel that first")
		}
		return nil
	}
}

// populateHistory sets what was on record of web-1.
func populateHistory(f *fakeServer) {
	known := func(name string) error {
		if f.objects["machine/"+name] == nil {
			return notFound(mustKind("Machine"), name)
		}
		return nil
	}
	change := []*pb.Difference{{Path: "disks[nvme0n1]", Want: "PM9A3, 960 GB, serial D1", Got: "PM9A3, 960 GB, serial D7"}, {Path: "bios.version", Want: "2.19.1", Got: "2.20.0"}}
	on(f, "ListMachineInventories", func(q *pb.ListMachineInventoriesRequest) (*pb.ListMachineInventoriesResponse, error) {
		if q.GetName() == "web-2" {
			return &pb.ListMachineInventoriesResponse{}, nil
		}
		r := &pb.ListMachineInventoriesResponse{Records: []*pb.InventoryRecord{{Number: 2, Time: at(-3600), Changes: change}}, NextPageToken: "x"}
		if q.GetPageToken() != "" {
			r = &pb.ListMachineInventoriesResponse{Records: []*pb.InventoryRecord{{Number: 1, Time: at(-90000)}}}
		}
		return r, known(q.GetName())
	})
	on(f, "DiffMachineInventories", func(q *pb.DiffMachineInventoriesRequest) (*pb.DiffMachineInventoriesResponse, error) {
		r := &pb.DiffMachineInventoriesResponse{From: &pb.InventoryRecord{Number: 1, Time: at(-90000)}, To: &pb.InventoryRecord{Number: 2, Time: at(-3600)}}
		switch q.GetFrom() {
		case "9":
			return nil, badFields("from", "machine/web-1 has no record 9: it has 1 to 2")
		case "":
			r.Differences = change
		}
		return r, known(q.GetName())
	})
	on(f, "ListMachineTests", func(q *pb.ListMachineTestsRequest) (*pb.ListMachineTestsResponse, error) {
		if q.GetName() == "web-2" {
			return &pb.ListMachineTestsResponse{}, nil
		}
		runs := []*pb.TestRun{
			{Number: 2, Time: at(-60), Workflow: "web-1-test-2", Results: []*pb.TestResult{
				{Test: "disk", Subject: "D7", Measure: "read_throughput", Value: 2.5e9, Unit: "B/s", Ok: true, Verdict: "pass"},
				{Test: "memory", Subject: "all", Measure: "errors", Value: 3, Unit: "count", Message: "3 words are wrong", Verdict: "fail"},
			}},
			{Number: 1, Time: at(-90000), Results: []*pb.TestResult{{Test: "disk", Subject: "D7", Measure: "read_throughput", Value: 2e9, Unit: "B/s", Ok: true}}},
		}
		return &pb.ListMachineTestsResponse{Runs: runs[:min(len(runs), int(q.GetPageSize()))]}, known(q.GetName())
	})
}

// followFixture streams the log of install-web-1.
func followFixture(f *fakeServer, q *pb.FollowWorkflowRequest, s grpc.ServerStream) error {
	w, _ := f.objects["workflow/"+q.Name].(*pb.Workflow)
	if w == nil {
		return notFound(mustKind("Workflow"), q.Name)
	}
	send := func(m *pb.FollowWorkflowResponse) { _ = s.SendMsg(m) }
	send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Workflow{Workflow: w}})
	if q.History {
		for i, l := range []*pb.LogLine{
			{Step: "disk", Text: "chose /dev/nvme0n1"},
			{Step: "write", Text: "wrote\t480 GB\x1b[2J"},
			{Step: "write", Text: "no space left on device", Stream: "stderr"},
		} {
			l.Time = at(float64(i - 100))
			send(&pb.FollowWorkflowResponse{Event: &pb.FollowWorkflowResponse_Log{Log: l}})
		}
	}
	return nil
}
