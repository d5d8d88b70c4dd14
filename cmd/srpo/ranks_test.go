package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/policies/tiny"
)

// rankedPolicy is tiny as several processes, which connect to rank 0. Rank 0 does all the work. At rank 0's third
// Act, if the file $ONCE does not exist, rank 1 creates it and dies.
type rankedPolicy struct {
	*tiny.Policy
	peers []net.Conn
	acts  int
}

func (p *rankedPolicy) Info(ctx context.Context) (plugins.Info, error) {
	info, err := p.Policy.Info(ctx)
	info.Name, info.Distributed = "ranked", true
	return info, err
}

func (p *rankedPolicy) Configure(ctx context.Context, c plugins.Config) error {
	if c.WorldSize > 1 {
		if err := p.connect(c); err != nil {
			return err
		}
	}
	c.Rank, c.WorldSize = 0, 1 // tiny supports one process only
	return p.Policy.Configure(ctx, c)
}

// connect connects ranks to rank 0 by a socket in the rendezvous folder.
func (p *rankedPolicy) connect(c plugins.Config) error {
	fmt.Fprintf(os.Stderr, "rank %d of %d\n", c.Rank, c.WorldSize)
	path := filepath.Join(c.Rendezvous, "socket")
	if c.Rank == 0 {
		listener, err := net.Listen("unix", path)
		for err == nil && len(p.peers) < c.WorldSize-1 {
			var peer net.Conn
			if peer, err = listener.Accept(); err == nil {
				p.peers = append(p.peers, peer)
			}
		}
		return err
	}
	var conn net.Conn
	err := os.ErrNotExist
	for began := time.Now(); err != nil && time.Since(began) < time.Minute; time.Sleep(time.Millisecond) {
		conn, err = net.Dial("unix", path)
	}
	if err != nil {
		return err
	}
	go func() {
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			once := os.Getenv("ONCE")
			if _, err := os.Stat(once); err != nil && c.Rank == 1 {
				_ = os.WriteFile(once, nil, 0o644)
				fmt.Fprintln(os.Stderr, "NCCL: unhandled system error")
				os.Exit(3)
			}
		}
	}()
	return nil
}

func (p *rankedPolicy) Act(ctx context.Context, a policy.Act) ([]policy.Result, error) {
	if p.acts++; p.acts == 3 {
		_, err := os.Stat(os.Getenv("ONCE"))
		for _, peer := range p.peers {
			fmt.Fprintln(peer, "act")
		}
		if err != nil && len(p.peers) > 0 {
			<-ctx.Done() // as in a collective operation
		}
	}
	return p.Policy.Act(ctx, a)
}
