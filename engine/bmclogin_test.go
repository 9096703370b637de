package engine

import (
	"strings"
	"testing"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// TestBMCLogin has a BMC refuse the password that everybody says it has.
func TestBMCLogin(t *testing.T) {
	r := newRoom(t)
	r.plug("10.20.0.31", "R1", "S31")
	r.fakes["10.20.0.31"].ResetPassword("another")
	machines := pb.NewMachineServiceClient(r.conn)
	_, err := machines.CreateMachine(r.ctx(), &pb.CreateMachineRequest{Machine: &pb.Machine{
		Metadata: &pb.Metadata{Name: "web-1"}, Spec: &pb.MachineSpec{Bmc: &pb.BMC{Address: "10.20.0.31", Username: "root", PasswordSecret: "factory"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r.eventually("it has failed for that", func() bool {
		s := r.machine("web-1").GetStatus()
		return s.GetState() == pb.MachineState_FAILED && strings.Contains(s.GetCause(), "refuses the password: user root with secret/factory")
	})
	if n := r.asked("10.20.0.31"); n > 3 { // polls, the console and the contact may meet
		t.Errorf("it was logged in to %d times", n)
	}
	explained, err := machines.ExplainMachine(r.ctx(), &pb.ExplainMachineRequest{Name: "web-1"})
	if err != nil || !strings.Contains(strings.Join(explained.GetAdvice(), "\n"), "bmc status web-1 --retry") {
		t.Errorf("explain: %v, %v", explained.GetAdvice(), err)
	}
	t.Run("once the account is put right and a person asks, its life goes on by itself", func(t *testing.T) {
		r.fakes["10.20.0.31"].ResetPassword("secret")
		answer, err := machines.GetMachineBMC(r.ctx(), &pb.GetMachineBMCRequest{Name: "web-1", Retry: true})
		if err != nil || answer.GetError() != "" {
			t.Fatalf("%v, %v", answer.GetError(), err)
		}
		r.eventually("it is contacted", func() bool {
			s := r.machine("web-1").GetStatus()
			return s.GetBmcInventory() != nil && s.GetBmc().GetRefusedLogin() == nil
		})
	})
}
