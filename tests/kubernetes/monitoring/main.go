// What the tests of deploy/prometheus and deploy/grafana need of others' code, beside Debian's Prometheus.
//
//	weft-monitoring dashboards FILE…
//	weft-monitoring discover CONFIG KUBECONFIG DIRECTORY
//
// The first reads dashboards as strictly as Grafana's own schema says: the types of its Foundation SDK are generated from it. The
// second stands in for the one part of Prometheus that Debian leaves out, discovery in Kubernetes, with that part itself: it keeps
// the targets of each job in a file, and writes the same configuration with these files in place of the API server.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v2"
)

// How often Prometheus asks in a test, which has not the time to wait for its usual turn.
const interval = "1s"

func main() {
	err := errors.New("usage: weft-monitoring dashboards FILE… | discover CONFIG KUBECONFIG DIRECTORY")
	switch args := os.Args[1:]; {
	case len(args) > 1 && args[0] == "dashboards":
		err = dashboards(args[1:])
	case len(args) == 4 && args[0] == "discover":
		err = discover(args[1], args[2], args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func dashboards(files []string) error {
	plugins.RegisterDefaultPlugins()
	var all []error
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var read dashboard.Dashboard
		// An empty list is handed back as an error too.
		for _, err := range []error{read.UnmarshalJSONStrict(text), read.Validate()} {
			if err != nil && err.Error() != "" {
				all = append(all, fmt.Errorf("%s: %w", file, err))
			}
		}
	}
	return errors.Join(all...)
}

func discover(config, kubeconfig, directory string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	var whole yaml.MapSlice
	if err := yaml.Unmarshal(text, &whole); err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	for i := range whole {
		switch whole[i].Key {
		case "global":
			whole[i].Value = yaml.MapSlice{{Key: "scrape_interval", Value: interval}, {Key: "evaluation_interval", Value: interval}}
		case "rule_files":
			files := whole[i].Value.([]any)
			for j, file := range files {
				if files[j], err = filepath.Abs(filepath.Join(filepath.Dir(config), file.(string))); err != nil {
					return err
				}
			}
		case "scrape_configs":
			for _, job := range whole[i].Value.([]any) {
				if err := follow(job.(yaml.MapSlice), kubeconfig, directory); err != nil {
					return fmt.Errorf("%s: %w", config, err)
				}
			}
		}
	}
	if text, err = yaml.Marshal(whole); err != nil {
		return err
	}
	if err := replace(filepath.Join(directory, "prometheus.yml"), text); err != nil {
		return err
	}
	// Until whoever started this ends it.
	select {}
}

// Follows the targets of a job, and has it read them from the file where they are kept.
func follow(job yaml.MapSlice, kubeconfig, directory string) error {
	var file string
	for i := range job {
		switch job[i].Key {
		case "job_name":
			file = filepath.Join(directory, job[i].Value.(string)+".json")
		case "kubernetes_sd_configs":
			// job_name stands first.
			for _, item := range job[i].Value.([]any) {
				if err := watch(item, kubeconfig, file); err != nil {
					return err
				}
			}
			job[i] = yaml.MapItem{Key: "file_sd_configs", Value: []yaml.MapSlice{{{Key: "files", Value: []string{file}}}}}
		}
	}
	return nil
}

func watch(item any, kubeconfig, file string) error {
	text, err := yaml.Marshal(item)
	if err != nil {
		return err
	}
	var config kubernetes.SDConfig
	if err := yaml.UnmarshalStrict(text, &config); err != nil {
		return err
	}
	config.KubeConfig = kubeconfig
	registry := prometheus.NewRegistry()
	metrics := config.NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	if err := metrics.Register(); err != nil {
		return err
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	discoverer, err := kubernetes.New(logger, metrics, &config)
	if err != nil {
		return err
	}
	found := make(chan []*targetgroup.Group)
	go discoverer.Run(context.Background(), found)
	go func() {
		groups := map[string]*targetgroup.Group{}
		for news := range found {
			for _, group := range news {
				groups[group.Source] = group
			}
			if err := keep(groups, file); err != nil {
				fmt.Fprintln(os.Stderr, "error:", err)
				os.Exit(1)
			}
		}
	}()
	return nil
}

// Writes targets as Prometheus reads them from files.
func keep(groups map[string]*targetgroup.Group, file string) error {
	type entry struct {
		Targets []model.LabelValue `json:"targets"`
		Labels  model.LabelSet     `json:"labels"`
	}
	entries := []entry{}
	for _, group := range groups {
		for _, target := range group.Targets {
			entries = append(entries, entry{[]model.LabelValue{target[model.AddressLabel]}, group.Labels.Merge(target)})
		}
	}
	text, err := json.Marshal(entries)
	if err != nil {
		return err
	}
	return replace(file, text)
}

// Whole or not at all: somebody is reading.
func replace(file string, text []byte) error {
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
