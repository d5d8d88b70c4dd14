package supervise

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
)

// A policy may be several processes, one a GPU: the ranks of one world, in the words of torch.distributed. To the host they are one thing, started, configured, ended
// and started again together, since a collective operation needs all of them or none. Calls go to rank 0, which tells the others what to do.

// world is what the ranks have in common.
type world struct {
	stopping atomic.Bool
	mu       sync.Mutex
	ranks    []*Process // nil until all have started
}

// StartRanks starts the processes of a world, all at the same time, as each may take long to load its libraries, and returns rank 0. All of them end with the first
// that does. Where one does not start, none is left.
func (s *Supervisor) StartRanks(ctx context.Context, l Launch, n int) (*Process, error) {
	if n == 1 {
		return s.Start(ctx, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := &world{}
	ranks, errs := make([]*Process, n), make([]error, n)
	var wg sync.WaitGroup
	for rank := range n {
		wg.Add(1)
		go func() {
			defer wg.Done()
			one := l
			if rank > 0 {
				one.Instance = strconv.Itoa(rank)
			}
			if ranks[rank], errs[rank] = s.start(ctx, one, w, rank); errs[rank] != nil {
				cancel()
			}
		}()
	}
	wg.Wait()
	if err := first(errs); err != nil {
		for _, p := range ranks {
			if p != nil {
				p.Kill()
				<-p.Exited()
				p.release()
			}
		}
		return nil, err
	}
	w.mu.Lock()
	w.ranks = ranks
	w.mu.Unlock()
	for _, p := range ranks {
		go func() {
			<-p.Exited()
			for _, q := range ranks {
				q.endFor(p)
			}
		}()
	}
	return ranks[0], nil
}

// first is the error to tell of those of several ranks: one that is no consequence of another's, and of these that of the lowest rank.
func first(errs []error) error {
	var found error
	for _, err := range errs {
		if err != nil && (found == nil || plugins.KindOf(found) == plugins.Canceled && plugins.KindOf(err) != plugins.Canceled) {
			found = err
		}
	}
	return found
}

// Ranks are the processes that live and die with this one, by rank; of one that is not rank 0 it alone.
func (p *Process) Ranks() []*Process {
	if p.world != nil && p.rank == 0 {
		p.world.mu.Lock()
		defer p.world.mu.Unlock()
		if p.world.ranks != nil {
			return p.world.ranks
		}
	}
	return []*Process{p}
}

// groups are the process groups of [Process.Ranks].
func (p *Process) groups() []int {
	var out []int
	for _, q := range p.Ranks() {
		out = append(out, q.PID())
	}
	return out
}

// endFor ends a process for the sake of another that has ended.
func (p *Process) endFor(other *Process) {
	select {
	case <-p.Exited():
		return
	default:
	}
	if p.world.stopping.Load() {
		return
	}
	other = other.FirstFailed() // which may have ended for the sake of a third
	if p.lost.CompareAndSwap(nil, other) {
		p.leader.killFor(fmt.Sprintf("as %s %s", other.Label(), other.ExitReason()))
	}
}

// FirstFailed is the process that knows why this one ended: another rank of its world, or it itself.
func (p *Process) FirstFailed() *Process {
	if other := p.lost.Load(); other != nil {
		return other
	}
	return p
}

// ConfigureRanks configures the processes of a policy, given by rank, all at the same time: rank 0 waits for the others where they meet. Each gets a scratch folder
// of its own. Errors: that of the rank that failed, with its place where it is not rank 0; Unsupported where the plugin cannot be several processes.
func (s *Supervisor) ConfigureRanks(ctx context.Context, info plugins.Info, ranks []policy.Policy, c plugins.Config) error {
	c.WorldSize = len(ranks)
	if len(ranks) > 1 {
		if !info.Distributed {
			return plugins.Errorf(plugins.Unsupported, "it is one process, and %d are asked for", len(ranks)).WithPlace("policy %s", info.Name).
				WithHint("host.policy_processes = 1, or a policy that says it can share its work (openvla, pi0 and pi0-fast do)")
		}
		c.Rendezvous = filepath.Join(s.folder.path, fmt.Sprintf("world-%d", s.count.Add(1))) // private, and short enough for a socket
		if err := os.Mkdir(c.Rendezvous, 0o700); err != nil {
			return plugins.Errorf(plugins.Exhausted, "no folder for its processes to meet in: %w", err).WithPlace("policy %s", info.Name)
		}
	}
	configs := make([]plugins.Config, len(ranks))
	for rank := range ranks {
		own, name := c, "policy-"+info.Name
		if own.Rank = rank; rank > 0 {
			name += "-" + strconv.Itoa(rank)
		}
		var err error
		if own.Scratch, err = s.Scratch(name); err != nil {
			return err
		}
		configs[rank] = own
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(ranks))
	var wg sync.WaitGroup
	for rank, p := range ranks {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if errs[rank] = p.Configure(ctx, configs[rank]); errs[rank] != nil {
				// The others may have found the same, and say so better than a cancelled call does; or they may wait for this one.
				time.AfterFunc(time.Second, cancel)
			}
		}()
	}
	wg.Wait()
	return first(errs)
}
