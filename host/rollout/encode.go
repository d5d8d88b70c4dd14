package rollout

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/srpo-dev/srpo/plugins"
)

// encoding embeds finished episodes in a goroutine of its own: whoever waits, up to the encoder's batch.
type encoding struct {
	roll *roll
	done chan *Episode // each episode that was added, once, embedded

	mu      sync.Mutex
	waiting []clip
	wake    chan struct{} // holds one token when waiting grew
	stop    chan struct{}
	ended   sync.WaitGroup

	busy         time.Duration
	calls, items int
}

func (r *roll) startEncoding() {
	e := &encoding{roll: r, done: make(chan *Episode), wake: make(chan struct{}, 1), stop: make(chan struct{})}
	r.encode = e
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
			case <-e.roll.ctx.Done():
				return
			}
		}
		if err := e.embed(batch); err != nil {
			e.roll.fail(err)
			return
		}
		for _, c := range batch {
			select {
			case e.done <- c.Episode:
			case <-e.roll.ctx.Done():
				return
			}
		}
	}
}

// take returns the first of those who wait, nil when nobody does.
func (e *encoding) take() []clip {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := min(len(e.waiting), e.roll.s.EncoderSpec.Batch)
	if n == 0 {
		return nil
	}
	batch := slices.Clone(e.waiting[:n])
	e.waiting = slices.Delete(e.waiting, 0, n)
	return batch
}

// embed gives each episode its embedding. A batch that fails is given again clip by clip, so that one bad clip costs nobody else, and is named.
func (e *encoding) embed(batch []clip) error {
	err := e.call(batch)
	if err == nil || e.roll.ctx.Err() != nil {
		return err
	}
	e.roll.survived(batch[0].ID, e.roll.s.EncoderName, err)
	first := 1
	if len(batch) == 1 {
		first = 2 // that was the clip's own first try
	}
	for _, c := range batch {
		for attempt := first; ; attempt++ {
			err := e.call([]clip{c})
			if err == nil {
				break
			}
			if e.roll.ctx.Err() != nil {
				return err
			}
			if attempt > e.roll.s.Retries {
				return gaveUp(e.roll.s.EncoderName, c.ID, attempt, 0, err)
			}
			e.roll.survived(c.ID, e.roll.s.EncoderName, err)
		}
	}
	return nil
}

func (e *encoding) call(batch []clip) error {
	r := e.roll
	client, incarnation, err := r.s.Encoder.Client(r.ctx)
	if err != nil {
		return plugins.AsError(err).WithPlace("%s", r.s.EncoderName)
	}
	clips := make([]plugins.Tensor, len(batch))
	for i, c := range batch {
		clips[i] = fit(c.Frames, c.frames)
	}
	began := time.Now()
	vectors, err := client.Encode(r.ctx, clips)
	e.busy += time.Since(began)
	e.calls++
	e.items += len(clips)
	if err == nil && len(vectors) != len(clips) {
		err = corrupt("a fault in the encoder plugin", "%d vectors for %d clips", len(vectors), len(clips))
	}
	if err != nil {
		if Replaces(err) && r.ctx.Err() == nil {
			r.s.Encoder.Failed(incarnation, err)
		}
		return err
	}
	for i, c := range batch {
		if reason := CheckEmbedding(vectors[i], r.s.EncoderSpec.Dimension); reason != "" {
			c.EmbeddingError = fmt.Sprintf("the vector of %s %s (%d of %d numbers)", r.s.EncoderName, reason, len(vectors[i]), r.s.EncoderSpec.Dimension)
			continue
		}
		c.Embedding = slices.Clone(vectors[i])
	}
	return nil
}

func (e *encoding) timing(t *Timing) {
	t.Encode, t.EncodeCalls, t.EncodeClips = e.busy.Seconds(), e.calls, e.items
}
