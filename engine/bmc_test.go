package engine

import (
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bedplate/bedplate/bmc"
	"github.com/bedplate/bedplate/bmc/bmctest"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestEngine_BMC goes from a BMC's address and a password to a machine that is
// switched on, whose console is seen over the API and SSH.
func TestEngine_BMC(t *testing.T) {
	fake := bmctest.NewFake("root", "secret")
	cfg := testConfig(t, t.TempDir())
	cfg.BMC = BMCConfig{
		PollInterval: time.Second, RecordConsoles: 1, SSHPort: freePorts(t, 1)[0],
		Dial: func(ctx context.Context, target bmc.Target) (bmc.Driver, error) { return fake.Dial(ctx, target) },
	}
	s := start(t, cfg)
	machines, jobs := pb.NewMachineServiceClient(s.conn), pb.NewJobServiceClient(s.conn)
	secret := &pb.Secret{Metadata: &pb.Metadata{Name: "bmc"}, Spec: &pb.SecretSpec{Data: map[string]string{"WEB-1": "secret", "00:11:22:33:44:55": "other"}}}
	if _, err := pb.NewSecretServiceClient(s.conn).CreateSecret(s.ctx(), &pb.CreateSecretRequest{Secret: secret}); err != nil {
		t.Fatal(err)
	}
	_, err := machines.CreateMachine(s.ctx(), &pb.CreateMachineRequest{Machine: &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: "10.0.0.9", Username: "root", PasswordSecret: "bmc", Tls: "insecure"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	get := func() *pb.Machine {
		m, err := machines.GetMachine(s.ctx(), &pb.GetMachineRequest{Name: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	s.eventually("its BMC has said who it is", func() bool { return get().GetSpec().GetSerial() == "FAKE1" })
	t.Run("a job switches it", func(t *testing.T) {
		_, err := jobs.CreateJob(s.ctx(), &pb.CreateJobRequest{Job: &pb.Job{
			Metadata: &pb.Metadata{Name: "on"}, Spec: &pb.JobSpec{Machine: "web-1", Operations: []*pb.Operation{{Operation: &pb.Operation_Power{Power: &pb.PowerOperation{Action: "on"}}}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		s.eventually("it is on", func() bool {
			return fake.Power() == bmc.PowerOn && get().GetStatus().GetBmc().GetPower() == pb.PowerState_POWER_ON
		})
	})
	t.Run("its BMC is read", func(t *testing.T) {
		r, err := machines.ListMachineSensors(s.ctx(), &pb.ListMachineSensorsRequest{Name: "web-1"})
		if err != nil || len(r.GetSensors()) != 1 {
			t.Errorf("sensors: %v, %v", r, err)
		}
		b, err := machines.GetMachineBMC(s.ctx(), &pb.GetMachineBMCRequest{Name: "web-1"})
		if err != nil || b.GetError() != "" || b.GetStatus().GetHealth() != "ok" {
			t.Errorf("status: %v, %v", b, err)
		}
	})
	t.Run("its console is recorded, and seen over SSH", func(t *testing.T) {
		s.eventually("it is open", func() bool { return fake.SerialPort() != nil })
		go io.Copy(io.Discard, fake.SerialPort()) //nolint:errcheck // ends with the server
		if _, err := io.WriteString(fake.SerialPort(), "web-1 login: "); err != nil {
			t.Fatal(err)
		}
		s.eventually("it is on record", func() bool {
			r, err := machines.GetMachineConsoleLog(s.ctx(), &pb.GetMachineConsoleLogRequest{Name: "web-1"})
			return err == nil && strings.HasSuffix(string(r.GetData()), "login: ")
		})
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(int(cfg.BMC.SSHPort)))
		c, err := ssh.Dial("tcp", addr, &ssh.ClientConfig{
			User: "web-1", Auth: []ssh.AuthMethod{ssh.Password(s.secret)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second, //nolint:gosec // it is on loopback
		})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		session, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		out, err := session.Output("log")
		if err != nil || !strings.HasSuffix(string(out), "login: ") {
			t.Errorf("SSH shows %q, %v", out, err)
		}
	})
}
