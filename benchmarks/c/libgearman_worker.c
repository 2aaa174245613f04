/* libgearman's worker, which does so many jobs by an empty function, and prints what they took.
 *
 * c_worker PORT JOBS */
#include <libgearman/gearman.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static gearman_return_t empty(gearman_job_st *job, void *context) {
  (void)job;
  (void)context;
  return GEARMAN_SUCCESS;
}

static double wall(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec + now.tv_nsec / 1e9;
}

static double cpu(void) {
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

int main(int count, char **arguments) {
  if (count != 3) return 2;
  long jobs = atol(arguments[2]);
  gearman_worker_st *worker = gearman_worker_create(NULL);
  gearman_worker_add_server(worker, "127.0.0.1", (in_port_t)atoi(arguments[1]));
  gearman_worker_define_function(worker, "echo", 4, gearman_function_create(empty), 0, NULL);
  double began = wall(), spent = cpu();
  for (long done = 0; done < jobs; done++)
    if (gearman_worker_work(worker) != GEARMAN_SUCCESS) {
      fprintf(stderr, "%s\n", gearman_worker_error(worker));
      return 1;
    }
  printf("{\"jobs_per_second\": %f, \"cpu_us\": %f}\n", jobs / (wall() - began), (cpu() - spent) / jobs * 1e6);
  gearman_worker_free(worker);
  return 0;
}
