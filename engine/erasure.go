package engine

import (
	"fmt"

	"github.com/bedplate/bedplate/erasure"
	"github.com/bedplate/bedplate/event"
	"github.com/bedplate/bedplate/lifecycle"
	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// erasureRecord makes the signed record of what a workflow has erased. One that
// doesn't vouch for every disk comes with the error that says why.
func (e *Engine) erasureRecord(m *pb.Machine, wf *pb.Workflow, operator string) (lifecycle.ErasureRecord, error) {
	r, not := erasure.FromWorkflow(m, wf, orText(operator, "system"), e.cfg.Now())
	if r == nil {
		return lifecycle.ErasureRecord{}, not
	}
	r.Server = erasure.Server{Version: e.cfg.Version, CADigest: e.ca.Digest()}
	document, err := erasure.Sign(r, e.signer)
	if err != nil {
		return lifecycle.ErasureRecord{}, err
	}
	obj := erasure.Resource(r, document)
	resource.Stamp(e.db, obj)
	said := event.About(m, "Erased", fmt.Sprintf("%d disks erased and verified (%s): record %s", len(r.Devices), orText(r.Level, "none"), r.ID), "")
	if not != nil {
		said = event.About(m, "EraseFailed", fmt.Sprintf("not every disk is erased and verified: record %s", r.ID), "")
		said.Warning = true
	}
	return lifecycle.ErasureRecord{Name: r.ID, Ops: []store.Op{resource.Put(obj), e.events.Op(said)}}, not
}
