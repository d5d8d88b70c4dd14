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

// rankGroup is the processes of one policy, one per GPU: the ranks of a torch.distributed world. The host
// starts, configures, stops and restarts them together, since a collective operation needs all of them or
// none. It calls rank 0, which directs the others.
type rankGroup struct {
	stopping atomic.Bool
	mu       sync.Mutex
	ranks    []*Process // nil until all have started
}

// StartRanks starts the n processes of a policy in parallel, as each may take long to load its libraries,
// and returns rank 0. When one of them ends, all of them end. When one does not start, none is left
// running.
func (s *Supervisor) StartRanks(ctx context.Context, l Launch, n int) (*Process, error) {
	if n == 1 {
		return s.Start(ctx, l)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group := &rankGroup{}
	ranks, errs := make([]*Process, n), make([]error, n)
	var wg sync.WaitGroup
	for rank := range n {
		wg.Go(func() {
			launch := l
			if rank > 0 {
				launch.Instance = strconv.Itoa(rank)
			}
			if ranks[rank], errs[rank] = s.start(ctx, launch, group, rank); errs[rank] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := rootError(errs); err != nil {
		for _, p := range ranks {
			if p != nil {
				p.Kill()
				<-p.Exited()
				p.release()
			}
		}
		return nil, err
	}
	group.mu.Lock()
	group.ranks = ranks
	group.mu.Unlock()
	for _, p := range ranks {
		go func() {
			<-p.Exited()
			for _, q := range ranks {
				q.endAfter(p)
			}
		}()
	}
	return ranks[0], nil
}

// rootError returns the error of the lowest rank. An error that is not a cancellation precedes one that is,
// as that follows from the failure of another rank.
func rootError(errs []error) error {
	var root error
	for _, err := range errs {
		if err != nil && (root == nil ||
			plugins.KindOf(root) == plugins.Canceled && plugins.KindOf(err) != plugins.Canceled) {
			root = err
		}
	}
	return root
}

// Ranks returns the processes that end together with this one, by rank. For a rank other than 0, and for a
// plugin of one process, that is only the process itself.
func (p *Process) Ranks() []*Process {
	if p.group != nil && p.rank == 0 {
		p.group.mu.Lock()
		defer p.group.mu.Unlock()
		if p.group.ranks != nil {
			return p.group.ranks
		}
	}
	return []*Process{p}
}

// processGroups returns the ids of the process groups of [Process.Ranks].
func (p *Process) processGroups() []int {
	var out []int
	for _, q := range p.Ranks() {
		out = append(out, q.PID())
	}
	return out
}

// endAfter kills a process because another rank has ended.
func (p *Process) endAfter(other *Process) {
	select {
	case <-p.Exited():
		return
	default:
	}
	if p.group.stopping.Load() {
		return
	}
	other = other.FirstFailed()
	if p.endedAfter.CompareAndSwap(nil, other) {
		p.leader.killBecause(fmt.Sprintf("as %s %s", other.Label(), other.ExitReason()))
	}
}

// FirstFailed returns the rank whose end caused the end of this process, or the process itself.
func (p *Process) FirstFailed() *Process {
	if other := p.endedAfter.Load(); other != nil {
		return other
	}
	return p
}

// ConfigureRanks configures the processes of a policy, given by rank, in parallel: rank 0 waits for the
// others to join. Each gets a scratch folder. Errors: that of the rank that failed, with its place for
// ranks other than 0; Unsupported when the plugin cannot run as several processes.
func (s *Supervisor) ConfigureRanks(
	ctx context.Context, info plugins.Info, ranks []policy.Policy, c plugins.Config,
) error {
	configs, err := s.rankConfigs(info, len(ranks), c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make([]error, len(ranks))
	var wg sync.WaitGroup
	for rank, p := range ranks {
		wg.Go(func() {
			if errs[rank] = p.Configure(ctx, configs[rank]); errs[rank] != nil {
				// The others may have found the same cause, and report it better than a cancelled call
				// does. Or they wait for this rank.
				time.AfterFunc(time.Second, cancel)
			}
		})
	}
	wg.Wait()
	return rootError(errs)
}

// rankConfigs returns the configuration of each of n ranks, with their rendezvous and scratch folders.
func (s *Supervisor) rankConfigs(info plugins.Info, n int, c plugins.Config) ([]plugins.Config, error) {
	c.WorldSize = n
	if n > 1 {
		if !info.Distributed {
			return nil, plugins.Errorf(plugins.Unsupported, "it runs as one process, not as %d", n).
				WithPlace("policy %s", info.Name).
				WithHint("set host.policy_processes = 1, or use a policy that can run as several (openvla, pi0, " +
					"pi0-fast)")
		}
		// A private folder, with a path short enough for a socket.
		c.Rendezvous = filepath.Join(s.folder.path, fmt.Sprintf("world-%d", s.count.Add(1)))
		if err := os.Mkdir(c.Rendezvous, 0o700); err != nil {
			return nil, plugins.Errorf(plugins.Exhausted, "the rendezvous folder of its processes: %w", err).
				WithPlace("policy %s", info.Name)
		}
	}
	configs := make([]plugins.Config, n)
	for rank := range configs {
		name := "policy-" + info.Name
		if rank > 0 {
			name += "-" + strconv.Itoa(rank)
		}
		c.Rank = rank
		var err error
		if c.Scratch, err = s.Scratch(name); err != nil {
			return nil, err
		}
		configs[rank] = c
	}
	return configs, nil
}
