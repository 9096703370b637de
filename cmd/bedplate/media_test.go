package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

func TestMachine_Media(t *testing.T) {
	f := newFakeServer(t)
	f.load(t, filepath.Join("testdata", "fixtures.yaml"))
	content := bytes.Repeat([]byte("bootable"), 100<<10)
	announced := int64(len(content))
	var asked []*pb.MakeMachineMediumRequest
	onStream(f, "MakeMachineMedium", func(q *pb.MakeMachineMediumRequest, s grpc.ServerStream) error {
		asked = append(asked, q)
		if q.Name != "web-1" {
			return status.Errorf(codes.NotFound, "machine/%s: not found", q.Name)
		}
		if q.Validity.AsDuration() > time.Hour*720 {
			return status.Error(codes.FailedPrecondition, "a boot medium can be good for a minute to 30 days")
		}
		medium := &pb.MachineMedium{SizeBytes: announced, ExpireTime: timestamppb.New(noon().Add(q.Validity.AsDuration()))}
		if err := s.SendMsg(&pb.MakeMachineMediumResponse{Part: &pb.MakeMachineMediumResponse_Medium{Medium: medium}}); err != nil {
			return err
		}
		for rest := content; len(rest) > 0; {
			n := min(len(rest), 300<<10)
			if err := s.SendMsg(&pb.MakeMachineMediumResponse{Part: &pb.MakeMachineMediumResponse_Data{Data: rest[:n]}}); err != nil {
				return err
			}
			rest = rest[n:]
		}
		return nil
	})
	revoked := ""
	on(f, "RevokeMachineMedia", func(q *pb.RevokeMachineMediaRequest) (*emptypb.Empty, error) {
		revoked = q.Name
		return &emptypb.Empty{}, nil
	})
	t.Chdir(t.TempDir())
	a := newTestApp(f, nil, nil)
	t.Run("the image is written whole, for its owner alone", func(t *testing.T) {
		out := command(t.Context(), a, "machine media web-1 --out m.iso --valid-for 2h")
		until := noon().Add(2 * time.Hour).Local().Format(time.DateTime)
		if !strings.HasPrefix(out, "m.iso: 800 KiB, boots machine/web-1 until "+until+"\n") || asked[0].Validity.AsDuration() != 2*time.Hour {
			t.Errorf("%s, asked for %v", out, asked[0])
		}
		got, err := os.ReadFile("m.iso")
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if info, err := os.Stat("m.iso"); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", info.Mode(), err)
		}
	})
	t.Run("one that was cut short leaves the old file alone, and nothing beside it", func(t *testing.T) {
		announced++
		defer func() { announced-- }()
		if err := os.WriteFile("m.iso", []byte("old"), 0o600); err != nil {
			t.Fatal(err)
		}
		out := command(t.Context(), a, "machine media web-1 --out m.iso")
		if !strings.Contains(out, "the server sent 819200 of 819201 bytes") || !strings.HasSuffix(out, "[exit code 1]\n") {
			t.Error(out)
		}
		entries, err := os.ReadDir(".")
		if err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
		if got, err := os.ReadFile("m.iso"); err != nil || string(got) != "old" {
			t.Errorf("%.20q, %v", got, err)
		}
	})
	t.Run("it goes to the standard output too", func(t *testing.T) {
		if out := command(t.Context(), a, "machine media web-1 --out -"); !strings.HasPrefix(out, string(content)) {
			t.Errorf("%.60q", out)
		}
	})
	t.Run("a file that can't be written is an error before anything else", func(t *testing.T) {
		if out := command(t.Context(), a, "machine media web-1 --out nowhere/m.iso"); !strings.Contains(out, "error: writing nowhere/m.iso") {
			t.Error(out)
		}
	})
	t.Run("no such machine", func(t *testing.T) {
		if out := command(t.Context(), a, "machine media web-9 --out x.iso"); !strings.Contains(out, "did you mean web-1?") {
			t.Error(out)
		}
		if _, err := os.Stat("x.iso"); err == nil {
			t.Error("a file was made")
		}
	})
	t.Run("revoking", func(t *testing.T) {
		if out := command(t.Context(), a, "machine media web-1 --revoke"); out != "machine/web-1: no medium is good any more\n" || revoked != "web-1" {
			t.Errorf("%s, revoked %q", out, revoked)
		}
	})
	t.Run("neither or both is a usage error", func(t *testing.T) {
		for _, flags := range []string{"", " --out m.iso --revoke"} {
			if out := command(t.Context(), a, "machine media web-1"+flags); !strings.Contains(out, "--out, or --revoke") || !strings.HasSuffix(out, "[exit code 2]\n") {
				t.Error(out)
			}
		}
	})
}
