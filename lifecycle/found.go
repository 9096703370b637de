package lifecycle

import (
	"github.com/bedplate/bedplate/discovery"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
)

// What a BMC has said of itself before anybody logged in; package fleet has the
// same words.
const (
	annotationBMCVendor  = "bedplate/bmc-vendor"
	annotationBMCProduct = "bedplate/bmc-product"
)

// found is a machine whose BMC was found: nobody has described it. Rules that
// go by what was heard without a login decide first, so that a BMC which is
// refused isn't sent a password; the others decide once the BMC has told what
// machine it is. The machine itself is left alone until it is accepted.
func (c *Controller) found(m *pb.Machine, v view, s standing) decision {
	rules := c.ruleList()
	if !contacted(m) {
		if d := apart(m, s); c.decidedUnseen(m, rules, &d) {
			return d
		}
		d := decision{standing: s}
		c.contact(m, v, &d)
		if d.state == pb.MachineState_ENROLLED {
			d.state = pb.MachineState_DISCOVERED
		}
		d.nextBoot = pb.NextBoot_DISK
		if d.nextAction == "its hardware is read" {
			d.nextAction = "the rules decide on it"
		}
		return d
	}
	d := apart(m, s)
	if s.job != "" {
		// A machine gets its name only when nothing speaks of it by the old one.
		d.standing.job, d.attempt, d.nextAction = "", 0, "the rules decide on it"
		return d
	}
	c.rule(m, byBMC(m), rules, &d)
	return d
}

// decidedUnseen decides on a machine that hasn't been logged in to: it is
// refused, or no rule could ever hold for it. Everything else has to be asked.
func (c *Controller) decidedUnseen(m *pb.Machine, rules []*pb.Rule, d *decision) bool {
	known := []string{"machine.bmc.address", "machine.bmc.mac", "machine.name"}
	if said := m.GetMetadata().GetAnnotations(); said[annotationBMCVendor] != "" && said[annotationBMCProduct] != "" {
		known = append(known, "machine.bmc.vendor", "machine.bmc.product")
	}
	unseen := discovery.Unseen(rules, known...)
	r, err := c.cfg.Decide(unseen, byBMC(m))
	switch {
	case err != nil, r.Action == discovery.Accept, r.Action == discovery.None && len(unseen) < len(rules):
		return false
	}
	c.rule(m, byBMC(m), unseen, d)
	if d.state == pb.MachineState_DISCOVERED {
		d.cause += "; no rule matches it"
	}
	return true
}

// byBMC is the machine with what its BMC says of the hardware in the place of
// what the agent would.
func byBMC(m *pb.Machine) *pb.Machine {
	out := cloneOf(m)
	if out.Status == nil {
		out.Status = &pb.MachineStatus{}
	}
	inv := &pb.Inventory{}
	if had := m.GetStatus().GetBmcInventory(); had != nil {
		inv = cloneOf(had)
	}
	if inv.Bmc == nil {
		inv.Bmc = &pb.BMCInfo{Present: true}
	}
	inv.Bmc.Address = m.GetSpec().GetBmc().GetAddress()
	out.Status.Inventory = inv
	return out
}
