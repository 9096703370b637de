package workflow

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	pb "github.com/bedplate/bedplate/proto/bedplate/v1"
	"github.com/bedplate/bedplate/resource"
	"github.com/bedplate/bedplate/store"
)

// A workflow's log is a row of chunks, /workflow-logs/<uid>/<number in 16
// hexadecimal digits>, each a StepEvents message whose events are lines,
// numbered from 1 for the whole log. The last chunk is written again until it
// is full. When there is more than maxLogBytes the first chunks go; the number
// of the first line that is left then says how many are lost.
const (
	logPrefix    = "/workflow-logs/"
	maxLogBytes  = 16 << 20
	chunkBytes   = 32 << 10  // a chunk that is larger is full
	maxChunk     = 256 << 10 // no chunk is larger
	maxDropped   = 64        // chunks that one transaction drops at most
	lineOverhead = 64
	readChunks   = 8
)

func chunkKey(uid string, n uint64) string { return fmt.Sprintf("%s%s/%016x", logPrefix, uid, n) }

// logbook is what is in memory of a workflow's log. It doesn't change: append
// makes a new one.
type logbook struct {
	uid    string
	chunks []chunk
	total  int
	// last is the content of the last chunk.
	last []*pb.StepEvent
	// lines is the number of the last line.
	lines uint64
}

type chunk struct {
	number uint64
	bytes  int
}

// openLogs reads what a workflow's log has.
func (c *Controller) openLogs(ctx context.Context, uid string) (*logbook, error) {
	b := &logbook{uid: uid}
	prefix := logPrefix + uid + "/"
	after := ""
	for {
		page, err := c.cfg.DB.Store.List(ctx, prefix, after, readChunks)
		if err != nil {
			return nil, fmt.Errorf("reading log: %w", err)
		}
		for _, kv := range page.KVs {
			n, events, err := parseChunk(kv)
			if err != nil {
				return nil, err
			}
			b.chunks = append(b.chunks, chunk{n, len(kv.Value)})
			b.total += len(kv.Value)
			b.last = events
			after = kv.Key
		}
		if !page.More {
			break
		}
	}
	if n := len(b.last); n > 0 {
		b.lines = b.last[n-1].GetSequence()
	}
	return b, nil
}

func parseChunk(kv store.KV) (uint64, []*pb.StepEvent, error) {
	n, err := strconv.ParseUint(kv.Key[strings.LastIndexByte(kv.Key, '/')+1:], 16, 64)
	if err != nil {
		return 0, nil, fmt.Errorf("reading log %s: %w", kv.Key, err)
	}
	var m pb.StepEvents
	if err := proto.Unmarshal(kv.Value, &m); err != nil {
		return 0, nil, fmt.Errorf("reading log %s: %w", kv.Key, err)
	}
	return n, m.GetEvents(), nil
}

// append returns the log with the lines added, and the ops that make it so.
func (b *logbook) append(lines []*pb.LogLine) (*logbook, []store.Op, error) {
	next := &logbook{uid: b.uid, chunks: slices.Clone(b.chunks), total: b.total, last: slices.Clone(b.last), lines: b.lines}
	var ops []store.Op
	if len(next.chunks) == 0 || next.chunks[len(next.chunks)-1].bytes >= chunkBytes {
		next.begin()
	}
	size := next.chunks[len(next.chunks)-1].bytes
	for i, l := range lines {
		next.lines++
		next.last = append(next.last, &pb.StepEvent{Sequence: next.lines, Event: &pb.StepEvent_Log{Log: l}})
		size += len(l.GetText()) + lineOverhead
		if size < maxChunk-maxLineBytes && i < len(lines)-1 {
			continue
		}
		op, err := next.write()
		if err != nil {
			return nil, nil, err
		}
		ops = append(ops, op)
		if i < len(lines)-1 {
			next.begin()
			size = 0
		}
	}
	for n := 0; next.total > maxLogBytes && n < maxDropped && len(next.chunks) > 1; n++ {
		ops = append(ops, store.Delete(chunkKey(b.uid, next.chunks[0].number)))
		next.total -= next.chunks[0].bytes
		next.chunks = next.chunks[1:]
	}
	return next, ops, nil
}

func (b *logbook) begin() {
	n := uint64(1)
	if k := len(b.chunks); k > 0 {
		n = b.chunks[k-1].number + 1
	}
	b.chunks = append(b.chunks, chunk{number: n})
	b.last = nil
}

// write returns the op that writes the last chunk.
func (b *logbook) write() (store.Op, error) {
	value, err := proto.Marshal(&pb.StepEvents{Events: b.last})
	if err != nil {
		return store.Op{}, fmt.Errorf("writing log: %w", err)
	}
	c := &b.chunks[len(b.chunks)-1]
	b.total += len(value) - c.bytes
	c.bytes = len(value)
	return store.Put(chunkKey(b.uid, c.number), value), nil
}

// logReader reads a workflow's log from some line on.
type logReader struct {
	store store.Store
	uid   string
	// line is the number of the last line read; done of the last chunk that
	// is known to be complete.
	line uint64
	done string
}

// read returns the next lines; none when there are no more now. lost is how
// many were dropped before the first of them.
func (r *logReader) read(ctx context.Context) (lines []*pb.LogLine, lost uint64, err error) {
	page, err := r.store.List(ctx, logPrefix+r.uid+"/", r.done, readChunks)
	if err != nil {
		return nil, 0, fmt.Errorf("reading log: %w", err)
	}
	for i, kv := range page.KVs {
		_, events, err := parseChunk(kv)
		if err != nil {
			return nil, 0, err
		}
		for _, ev := range events {
			if ev.GetSequence() <= r.line {
				continue
			}
			if len(lines) == 0 {
				lost = ev.GetSequence() - r.line - 1
			}
			r.line = ev.GetSequence()
			lines = append(lines, ev.GetLog())
		}
		// A chunk that has one after it is not written again.
		if i < len(page.KVs)-1 || page.More {
			r.done = kv.Key
		}
	}
	if len(lines) == 0 && page.More {
		return r.read(ctx)
	}
	return lines, lost, nil
}

// skip goes to the end of the log.
func (r *logReader) skip(ctx context.Context) error {
	for {
		lines, _, err := r.read(ctx)
		if err != nil || len(lines) == 0 {
			return err
		}
	}
}

// deleteLogs removes a workflow's log.
func (c *Controller) deleteLogs(ctx context.Context, uid string) error {
	if uid == "" {
		return nil
	}
	for {
		page, err := c.cfg.DB.Store.List(ctx, logPrefix+uid+"/", "", maxDropped)
		if err != nil {
			return fmt.Errorf("deleting log: %w", err)
		}
		if len(page.KVs) == 0 {
			return nil
		}
		ops := make([]store.Op, len(page.KVs))
		for i, kv := range page.KVs {
			ops[i] = store.Delete(kv.Key)
		}
		if _, err := c.cfg.DB.Store.Txn(ctx, nil, ops); err != nil {
			return fmt.Errorf("deleting log: %w", err)
		}
	}
}

// sweepLogs removes the logs of workflows that are no more: a server that was
// killed may have left some.
func (c *Controller) sweepLogs(ctx context.Context) error {
	var known map[string]bool
	after := ""
	for {
		page, err := c.cfg.DB.Store.List(ctx, logPrefix, after, 1)
		if err != nil {
			return fmt.Errorf("looking through logs: %w", err)
		}
		if len(page.KVs) == 0 {
			return nil
		}
		uid, _, _ := strings.Cut(strings.TrimPrefix(page.KVs[0].Key, logPrefix), "/")
		if known == nil {
			if known, err = c.workflowUIDs(ctx); err != nil {
				return err
			}
		}
		if !known[uid] {
			if err := c.deleteLogs(ctx, uid); err != nil {
				return err
			}
		}
		after = logPrefix + uid + "/~" // after every number
	}
}

// workflowUIDs returns the uid of every workflow.
func (c *Controller) workflowUIDs(ctx context.Context) (map[string]bool, error) {
	all, _, err := resource.All[*pb.Workflow](ctx, c.cfg.DB)
	if err != nil {
		return nil, err
	}
	uids := map[string]bool{}
	for _, wf := range all {
		uids[wf.GetMetadata().GetUid()] = true
	}
	return uids, nil
}
