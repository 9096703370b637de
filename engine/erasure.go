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

// erasureRecord makes the signed record of the erasure that a workflow has done.
func (e *Engine) erasureRecord(m *pb.Machine, wf *pb.Workflow, operator string) (lifecycle.ErasureRecord, error) {
	r, err := erasure.FromWorkflow(m, wf, orText(operator, "system"), e.cfg.Now())
	if err != nil {
		return lifecycle.ErasureRecord{}, err
	}
	r.Server = erasure.Server{Version: e.cfg.Version, CADigest: e.ca.Digest()}
	document, err := erasure.Sign(r, e.signer)
	if err != nil {
		return lifecycle.ErasureRecord{}, err
	}
	obj := erasure.Resource(r, document)
	resource.Stamp(e.db, obj)
	message := fmt.Sprintf("%d disks erased and verified (%s): record %s", len(r.Devices), orText(r.Level, "none"), r.ID)
	return lifecycle.ErasureRecord{Name: r.ID, Ops: []store.Op{resource.Put(obj), e.events.Op(event.About(m, "Erased", message, ""))}}, nil
}
