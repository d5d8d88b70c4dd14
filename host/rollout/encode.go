package rollout

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/host/srpo"
	"github.com/srpo-dev/srpo/plugins"
)

// encoding embeds finished episodes in a goroutine: all that wait, up to the encoder's batch.
type encoding struct {
	exec *execution
	done chan *Episode // each episode that was added, once, embedded

	mu      sync.Mutex
	waiting []clip
	wake    chan struct{} // has a token when waiting grew
	stop    chan struct{}
	ended   sync.WaitGroup

	busy         time.Duration
	calls, items int
}

func (x *execution) startEncoding() {
	e := &encoding{exec: x, done: make(chan *Episode), wake: make(chan struct{}, 1), stop: make(chan struct{})}
	x.encode = e
	e.ended.Add(1)
	go e.run()
}

// add never blocks.
func (e *encoding) add(clips ...clip) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.waiting = append(e.waiting, clips...)
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *encoding) close() {
	close(e.stop)
	e.ended.Wait()
}

func (e *encoding) run() {
	defer e.ended.Done()
	for {
		batch := e.take()
		if batch == nil {
			select {
			case <-e.wake:
				continue
			case <-e.stop:
				return
			case <-e.exec.ctx.Done():
				return
			}
		}
		if err := e.embed(batch); err != nil {
			e.exec.fail(err)
			return
		}
		for _, c := range batch {
			select {
			case e.done <- c.Episode:
			case <-e.exec.ctx.Done():
				return
			}
		}
	}
}

// take returns the first clips that wait, nil when none does.
func (e *encoding) take() []clip {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(len(e.waiting), e.exec.s.EncoderSpec.Batch)
	if n == 0 {
		return nil
	}
	batch := slices.Clone(e.waiting[:n])
	e.waiting = slices.Delete(e.waiting, 0, n)
	return batch
}

// embed sets each episode's embedding. A batch that fails is encoded again clip by clip, so that a bad clip
// does not affect the others and the error names it.
func (e *encoding) embed(batch []clip) error {
	err := e.call(batch)
	if err == nil || e.exec.ctx.Err() != nil {
		return err
	}
	e.exec.survived(batch[0].ID, e.exec.s.EncoderName, err)
	first := 1
	if len(batch) == 1 {
		first = 2 // the batch was this clip's first attempt
	}
	for _, c := range batch {
		for attempt := first; ; attempt++ {
			err := e.call([]clip{c})
			if err == nil {
				break
			}
			if e.exec.ctx.Err() != nil {
				return err
			}
			if attempt > maxFaults {
				return retriesSpent(e.exec.s.EncoderName, c.ID, attempt, 0, err)
			}
			e.exec.survived(c.ID, e.exec.s.EncoderName, err)
		}
	}
	return nil
}

func (e *encoding) call(batch []clip) error {
	x := e.exec
	client, incarnation, err := x.s.Encoder.Client(x.ctx)
	if err != nil {
		return plugins.AsError(err).WithPlace("%s", x.s.EncoderName)
	}
	clips := make([]plugins.Tensor, len(batch))
	for i, c := range batch {
		clips[i] = fit(c.Frames, c.frames)
	}
	began := time.Now()
	vectors, err := client.Encode(x.ctx, clips)
	e.busy += time.Since(began)
	e.calls++
	e.items += len(clips)
	if err == nil && len(vectors) != len(clips) {
		err = corrupt("a fault in the encoder plugin", "%d vectors for %d clips", len(vectors), len(clips))
	}
	if err != nil {
		if Replaces(err) && x.ctx.Err() == nil {
			x.s.Encoder.Failed(incarnation, err)
		}
		return err
	}
	for i, c := range batch {
		if reason := srpo.CheckEmbedding(vectors[i], x.s.EncoderSpec.Dimension); reason != "" {
			c.EmbeddingError = fmt.Sprintf("the vector of %s %s", x.s.EncoderName, reason)
			continue
		}
		c.Embedding = slices.Clone(vectors[i])
	}
	return nil
}

func (e *encoding) timing(t *Timing) {
	t.Encode, t.EncodeCalls, t.EncodeClips = e.busy.Seconds(), e.calls, e.items
}
