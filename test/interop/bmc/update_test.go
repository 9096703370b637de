package bmc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/fleet"
	"github.com/bedplate/bedplate/bmc/job"
	"github.com/bedplate/bedplate/lab/board"
	"github.com/bedplate/bedplate/machine"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
	"github.com/bedplate/bedplate/store/bolt"
)

// office is what a server has of BMCs and jobs, over a store that outlives it.
type office struct {
	t    *testing.T
	db   *resource.DB
	rig  *rig
	http *http.Client
}

func newOffice(t *testing.T, r *rig) *office {
	t.Helper()
	st, err := bolt.Open(t.TempDir()+"/store.db", bolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	var n atomic.Int64
	o := &office{t: t, rig: r, http: &http.Client{Timeout: time.Minute}, db: &resource.DB{
		Store: st, Now: time.Now, NewUID: func() string { return fmt.Sprintf("uid%05d", n.Add(1)) },
	}}
	_, err = resource.Create(t.Context(), o.db, &pb.Machine{Metadata: &pb.Metadata{Name: "sim"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{
		Address: r.target.Address, Username: r.target.Username, PasswordSecret: "bmc", IpmiPort: uint32(r.target.IPMIPort),
		CertificateDigest: string(r.target.TLS.Pin),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// start runs a server's part until stop.
func (o *office) start() (stop func()) {
	o.t.Helper()
	ctx, cancel := context.WithCancel(o.t.Context())
	log := slog.New(slog.DiscardHandler)
	event := func(_, name, reason, message string, _ bool) store.Op {
		return store.Put(fmt.Sprintf("/events/%s%s%d", name, reason, time.Now().UnixNano()), []byte(message))
	}
	fl, err := fleet.New(ctx, fleet.Config{
		DB: o.db, Sealer: plain{}, Event: event, PollInterval: -1, Now: time.Now, Rand: rand.Reader, Logger: log,
		Secret: func(context.Context, string) (map[string]string, int64, error) {
			return map[string]string{"password": o.rig.target.Password}, 1, nil
		},
		Observe: func(machine.Sighting) {},
	}, func(pinned func(bmc.Target, bmc.Pin)) (*bmc.Pool, error) {
		return bmc.NewPool(bmc.Config{Dial: dialer.Dial, Now: time.Now, Rand: func() float64 { return 0 }, Pinned: pinned})
	})
	if err != nil {
		o.t.Fatal(err)
	}
	jobs, err := job.New(job.Config{
		DB: o.db, BMCs: fl, Event: event, HTTP: o.http, Now: time.Now, Logger: log, TaskPause: 20 * time.Millisecond,
		Booted: func(machine.Name, time.Time) bool { return false },
	})
	if err != nil {
		o.t.Fatal(err)
	}
	var g sync.WaitGroup
	g.Go(func() { _ = fl.Run(ctx) })
	g.Go(func() { _ = jobs.Run(ctx) })
	return func() { cancel(); g.Wait() }
}

type plain struct{}

func (plain) Seal(_ string, p []byte) ([]byte, error) { return p, nil }
func (plain) Open(_ string, s []byte) ([]byte, error) { return s, nil }

// until waits for what a job's status is to become.
func (o *office) until(name, what string, is func(*pb.JobStatus) bool) *pb.JobStatus {
	o.t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		j, err := resource.Get[*pb.Job](o.t.Context(), o.db, name)
		if err != nil {
			o.t.Fatal(err)
		}
		if is(j.GetStatus()) {
			return j.GetStatus()
		}
		if time.Now().After(end) {
			o.t.Fatalf("never: %s: %v", what, j.GetStatus())
		}
		time.Sleep(10 * time.Millisecond) // a BMC in real time is waited for
	}
}

// TestLab_PushedUpdate has the server fetch firmware and push it to the lab's
// BMC, and be restarted while the BMC writes it.
func TestLab_PushedUpdate(t *testing.T) {
	r := start(t, bmc.ProtocolAuto)
	written := make(chan struct{})
	r.bmc.Board().HoldFlash(written)
	image := board.FirmwareImage(board.FirmwareBIOS, "9.9")
	var fetched atomic.Int64
	mirror := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = w.Write(image)
	}))
	defer mirror.Close()
	o := newOffice(t, r)
	push := func(name, digest, version string) {
		t.Helper()
		op := &pb.FirmwareOperation{Component: "BIOS", Url: mirror.URL + "/bios.bin", Digest: digest, Push: true, Version: version}
		_, err := resource.Create(t.Context(), o.db, &pb.Job{
			Metadata: &pb.Metadata{Name: name}, Spec: &pb.JobSpec{Machine: "sim", Operations: []*pb.Operation{{Operation: &pb.Operation_Firmware{Firmware: op}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	ended := func(s *pb.JobStatus) bool { return s.GetEndTime() != nil }
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(image))

	stop := o.start()
	t.Run("an image with another digest is not sent", func(t *testing.T) {
		push("wrong", "sha256:"+strings.Repeat("0", 64), "9.9")
		if s := o.until("wrong", "its end", ended); s.State != pb.JobState_JOB_FAILED || !strings.Contains(s.Cause, "nothing was sent to the BMC") {
			t.Errorf("it is %s: %s", s.State, s.Cause)
		}
		if n := len(r.bmc.Board().Tasks()); n != 0 {
			t.Errorf("the BMC has %d tasks", n)
		}
	})
	t.Run("an update goes on after a restart in its middle, with its progress on record, and is done once", func(t *testing.T) {
		before := fetched.Load()
		push("bios", digest, "9.9")
		half := o.until("bios", "its progress", func(s *pb.JobStatus) bool {
			return len(s.GetOperations()) > 0 && s.Operations[0].GetProgress() >= 30
		})
		task := half.Operations[0].GetTask()
		if task == "" || half.Operations[0].GetProgress() >= 100 {
			t.Fatalf("under way it is %v", half.Operations[0])
		}
		stop()
		stop = o.start()
		o.until("bios", "taken up again", func(s *pb.JobStatus) bool { return s.Operations[0].GetInterrupted() })
		close(written)
		end := o.until("bios", "its end", ended)
		op := end.Operations[0]
		if end.State != pb.JobState_JOB_SUCCEEDED || !op.Interrupted || op.Progress != 100 || op.Task != task || !strings.Contains(op.Result, "9.9") {
			t.Errorf("it is %s (%s): %v", end.State, end.Cause, op)
		}
		if v := r.bmc.Board().Version(board.FirmwareBIOS); v != "9.9" {
			t.Errorf("the machine has BIOS %s", v)
		}
		if n := len(r.bmc.Board().Tasks()); n != 1 {
			t.Errorf("the BMC was told %d times", n)
		}
		if n := fetched.Load() - before; n != 1 {
			t.Errorf("the image was fetched %d times", n)
		}
	})
	t.Run("what is there already is not installed again", func(t *testing.T) {
		push("again", digest, "9.9")
		if s := o.until("again", "its end", ended); s.State != pb.JobState_JOB_SUCCEEDED || !strings.Contains(s.Operations[0].Result, "already") {
			t.Errorf("it is %s: %v", s.State, s.Operations)
		}
	})
	stop()
}
