"""A vLLM server to judge with: its options, the environment it runs in, its command, its process, and whether it
answers. `harness.judge_server.server` starts one."""
