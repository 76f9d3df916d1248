// SPDX-License-Identifier: Apache-2.0

// Package shop is what every program of the example has in common: an HTTP server that says which
// instance answered, and an admin port from which a test makes it fail, wait or hang up.
//
// Nothing in it knows of the mesh.
package shop

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Identity is what an instance says of itself.
type Identity struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Instance string `json:"instance"`
}

// Program is one instance with its servers.
type Program struct {
	Identity
	listen string
	admin  string
	faults faults
	counts counts
	mux    *http.ServeMux
}

// New reads the command line (each flag has an environment variable of the same name in capitals)
// and prepares a program that answers every path with its identity.
func New(service string) *Program {
	p := &Program{mux: http.NewServeMux()}
	p.Service = service
	host, _ := os.Hostname()
	flag.StringVar(&p.Version, "version", env("VERSION", "v1"), "version to report")
	flag.StringVar(&p.Instance, "instance", env("INSTANCE", host), "name of this instance")
	flag.StringVar(&p.listen, "listen", env("LISTEN", ":80"), "address to serve")
	flag.StringVar(&p.admin, "admin", env("ADMIN", "127.0.0.1:9901"), "address of the admin port")
	p.counts.ByStatus = map[string]uint64{}
	p.mux.HandleFunc("/", p.answer)
	p.mux.HandleFunc("/echo", p.echo)
	p.mux.HandleFunc("/bytes", p.bytes)
	return p
}

// Handle adds a path.
func (p *Program) Handle(pattern string, handler http.HandlerFunc) {
	p.mux.HandleFunc(pattern, handler)
}

// Run parses the flags if that has not happened yet, and serves until SIGTERM.
func (p *Program) Run() {
	if !flag.Parsed() {
		flag.Parse()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	// The page may ask for HTTP/2 with prior knowledge, as gRPC programs do.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	main := &http.Server{Addr: p.listen, Handler: p.counted(p.mux), Protocols: protocols}
	admin := &http.Server{Addr: p.admin, Handler: p.adminMux()}
	for _, server := range []*http.Server{main, admin} {
		go func() {
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				log.Fatalf("serve %s: %v", server.Addr, err)
			}
		}()
	}
	log.Printf("%s %s (%s) serves %s, admin %s", p.Service, p.Version, p.Instance, p.listen, p.admin)
	<-ctx.Done()
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = main.Shutdown(grace)
}

// WriteJSON answers with a value as JSON.
func WriteJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func (p *Program) answer(w http.ResponseWriter, r *http.Request) {
	status := http.StatusOK
	if fail := int(p.faults.status.Load()); fail != 0 {
		status = fail
	}
	WriteJSON(w, status, struct {
		Identity
		Method   string `json:"method"`
		Host     string `json:"host"`
		Path     string `json:"path"`
		Protocol string `json:"protocol"`
		Attempt  string `json:"attempt,omitempty"`
		Request  string `json:"request_id,omitempty"`
	}{
		p.Identity, r.Method, r.Host, r.URL.RequestURI(), r.Proto,
		r.Header.Get("X-Envoy-Attempt-Count"), r.Header.Get("X-Request-Id"),
	})
}

// echo returns the request's headers and body.
func (p *Program) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	WriteJSON(w, http.StatusOK, map[string]any{
		"instance": p.Instance, "method": r.Method, "host": r.Host,
		"headers": r.Header, "trailers": r.Trailer, "body": string(body),
	})
}

// bytes answers with ?n= bytes of body, flushed in pieces of 64 KiB.
func (p *Program) bytes(w http.ResponseWriter, r *http.Request) {
	left, err := strconv.Atoi(r.URL.Query().Get("n"))
	if err != nil || left < 0 || left > 1<<30 {
		http.Error(w, "n is a number of bytes up to 1 GiB", http.StatusBadRequest)
		return
	}
	piece := []byte(strings.Repeat("remora!\n", 8192))
	for left > 0 {
		size := min(left, len(piece))
		if _, err := w.Write(piece[:size]); err != nil {
			return
		}
		left -= size
	}
}

// faults are what the admin port can make this instance do. Zero means nothing.
type faults struct {
	status atomic.Int64
	delay  atomic.Int64 // milliseconds
	abort  atomic.Bool  // close the connection without an answer
}

type counts struct {
	lock     sync.Mutex
	Identity `json:"identity"`
	// Requests counts all requests that reached this instance, before any fault.
	Requests uint64 `json:"requests"`
	// Shadowed counts those whose authority ends in -shadow, as mirrored requests' does.
	Shadowed uint64 `json:"shadowed"`
	// Unanswered counts those that were aborted or given up by the other side.
	Unanswered uint64            `json:"unanswered"`
	InFlight   int64             `json:"in_flight"`
	Peak       int64             `json:"peak_in_flight"`
	ByStatus   map[string]uint64 `json:"by_status"`
}

func (c *counts) begin(authority string) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.Requests++
	host, _, _ := strings.Cut(authority, ":")
	if strings.HasSuffix(host, "-shadow") {
		c.Shadowed++
	}
	c.InFlight++
	c.Peak = max(c.Peak, c.InFlight)
}

func (c *counts) end(status int) {
	c.lock.Lock()
	defer c.lock.Unlock()
	c.InFlight--
	if status == 0 {
		c.Unanswered++
		return
	}
	c.ByStatus[strconv.Itoa(status)]++
}

// Serve counts a call, makes it wait as the admin port says, and runs it. The handler returns the
// status it answered with, or zero if it did not answer.
func (p *Program) Serve(ctx context.Context, authority string, handle func() int) {
	p.counts.begin(authority)
	status := 0
	defer func() { p.counts.end(status) }()
	if wait := p.faults.delay.Load(); wait > 0 {
		select {
		case <-time.After(time.Duration(wait) * time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
	status = handle()
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (p *Program) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.Serve(r.Context(), r.Host, func() int {
			if p.faults.abort.Load() {
				panic(http.ErrAbortHandler)
			}
			seen := &statusWriter{w, http.StatusOK}
			next.ServeHTTP(seen, r)
			return seen.status
		})
	})
}

func (p *Program) adminMux() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/admin/fail", p.setNumber("status", &p.faults.status, 0, 599))
	mux.HandleFunc("/admin/delay", p.setNumber("ms", &p.faults.delay, 0, 60_000))
	mux.HandleFunc("/admin/abort", func(w http.ResponseWriter, r *http.Request) {
		p.faults.abort.Store(r.URL.Query().Get("on") != "0")
	})
	mux.HandleFunc("/admin/heal", func(http.ResponseWriter, *http.Request) {
		p.faults.status.Store(0)
		p.faults.delay.Store(0)
		p.faults.abort.Store(false)
	})
	mux.HandleFunc("/admin/counters", func(w http.ResponseWriter, _ *http.Request) {
		p.counts.lock.Lock()
		defer p.counts.lock.Unlock()
		p.counts.Identity = p.Identity
		WriteJSON(w, http.StatusOK, &p.counts)
	})
	mux.HandleFunc("/admin/reset", func(http.ResponseWriter, *http.Request) {
		p.counts.lock.Lock()
		defer p.counts.lock.Unlock()
		p.counts.Requests, p.counts.Shadowed, p.counts.Unanswered = 0, 0, 0
		p.counts.Peak = p.counts.InFlight
		clear(p.counts.ByStatus)
	})
	return mux
}

func (p *Program) setNumber(name string, to *atomic.Int64, low, high int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := strconv.ParseInt(r.URL.Query().Get(name), 10, 64)
		if err != nil || value < low || value > high {
			http.Error(w, fmt.Sprintf("%s is a number from %d to %d", name, low, high), http.StatusBadRequest)
			return
		}
		to.Store(value)
	}
}

// FailStatus is the status that this instance was told to fail with, or zero.
func (p *Program) FailStatus() int { return int(p.faults.status.Load()) }

func env(name, otherwise string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return otherwise
}
